// SPDX-License-Identifier: GPL-2.0-only
/*
 * Transit XDP: all that comes in from the substrate on the droplet's interface, and by tail call from the transit
 * agent what goes to another endpoint of this host.
 */
#include "hooks/xdp.h"
#include "lib/direct_path.h"
#include "lib/endpoint.h"
#include "lib/next_hop.h"
#include "lib/outer.h"
#include "lib/peer.h"
#include "lib/probe.h"
#include "lib/resolution.h"
#include "lib/roles.h"
#include "lib/state.h"

static __always_inline enum outcome deliver_from_tunnel(context *ctx, struct tunnel *tunnel, struct packet *packet,
							struct ethhdr *ethernet, const struct endpoint *endpoint,
							bool on_path, __u32 *leave_by)
{
	bool known = on_path || tunnel->flags & TUNNEL_COMES_BACK;
	enum outcome outcome = known ? GO_ON : learn(tunnel, &packet->from, endpoint);

	if (outcome != GO_ON)
		return outcome;
	if (!fits(endpoint, tunnel->length)) {
		tunnel->fits = endpoint->mtu;
		return DOES_NOT_FIT;
	}
	return deliver(ctx, tunnel, ethernet, endpoint, leave_by);
}

static __always_inline enum outcome packet_from_tunnel(context *ctx, const struct local_droplet *local,
						       struct tunnel *tunnel, struct packet *packet,
						       struct ethhdr *ethernet, bool on_path, __u32 *leave_by)
{
	enum outcome outcome = merge_ecn(ethernet, packet, tunnel->tos);
	struct endpoint *endpoint;
	bool undivided;

	if (outcome != GO_ON)
		return outcome;
	endpoint = endpoints.lookup(&packet->to);
	if (!endpoint && (is_to_many(packet) || is_subnet_broadcast(&packet->to)))
		return MULTICAST;
	if (!endpoint && is_own_misdirected(tunnel, packet)) {
		tunnel->flags = TUNNEL_MISDIRECTED;
		copy_address(&tunnel->origin, &tunnel->peer.address);
	}
	if (tunnel->flags & TUNNEL_COMES_BACK)
		outcome = take_back(local, tunnel, packet);
	if (outcome != GO_ON)
		return outcome;
	tunnel->tos = (tunnel->tos & ~ECN_MASK) | (packet->tos & ECN_MASK);
	undivided = is_undivided(tunnel, packet, endpoint);
	if (VXLAN_PORT && tunnel->flags & TUNNEL_VXLAN) {
		if (is_group(ethernet->h_dest)) /* a droplet's sender has looked */
			return MULTICAST;
		outcome = check_vxlan_source(ethernet, frame_end(ctx), tunnel, packet,
					     undivided || !endpoint || !endpoint->ifindex);
		if (outcome != GO_ON)
			return outcome;
	}
	if (undivided) {
		outcome = divide(tunnel, packet);
		if (outcome != GO_ON)
			return outcome < FIRST_DROPPED ? send_on(local, tunnel, false, outcome) : outcome;
	}
	if (endpoint && endpoint->ifindex) /* a miss is closed, but for this droplet's roles */
		return deliver_from_tunnel(ctx, tunnel, packet, ethernet, endpoint, on_path, leave_by);
	return pass_on(local, tunnel, packet, endpoint);
}

/* GO_ON for what goes on as a packet, neighbour discovery being looked after. */
static __always_inline enum outcome ipv6_from_tunnel(context *ctx, const struct local_droplet *local,
						     struct tunnel *tunnel, struct packet *packet,
						     struct transport *transport, struct ethhdr *ethernet)
{
	enum outcome outcome = find_transport(ethernet, frame_end(ctx), packet, transport);

	/* A peer that speaks VXLAN has not looked for neighbour discovery: closed where it may be. */
	if (VXLAN_PORT && outcome != GO_ON && tunnel->flags & TUNNEL_VXLAN)
		return outcome;
	if (outcome == GO_ON) {
		if (hides_nd(ethernet, frame_end(ctx), packet, transport))
			return MALFORMED_INNER;
		if (is_nd(ethernet, frame_end(ctx), transport)) {
			outcome = nd_from_tunnel(ctx, local, tunnel, packet, transport, ethernet);
			if (outcome != ND_TYPE || !is_answer(ethernet, frame_end(ctx), tunnel, transport))
				return outcome;
		}
	}
	return GO_ON;
}

static __always_inline enum outcome frame_from_tunnel(context *ctx, const struct local_droplet *local,
						      struct frame_state *state, __u32 *leave_by)
{
	struct tunnel *tunnel = &state->tunnel;
	struct packet *packet = &state->packet;
	struct ethhdr *ethernet = frame_start(ctx) + bounded(tunnel->headers, MAX_HEADERS);
	enum outcome outcome = MALFORMED_GENEVE, known;
	bool on_path = false;

	if ((void *)(ethernet + 1) <= frame_end(ctx))
		outcome = forgotten(read_packet(ethernet, frame_end(ctx), tunnel->length, tunnel->vni, packet));
	if (outcome == GO_ON && !tunnel->flags)
		on_path = confirmed_lately(&packet->from, &tunnel->peer.address);
	known = check_peer(local, tunnel, on_path);
	if (known != GO_ON)
		return known;
	if (outcome == GO_ON && INNER_IPV6 && packet->kind == ETH_P_IPV6)
		outcome = forgotten(ipv6_from_tunnel(ctx, local, tunnel, packet, &state->transport, ethernet));
	else if (outcome == INNER_PROTOCOL && ethertype(ethernet) == bpf_htons(ETH_P_ARP))
		outcome = arp_from_tunnel(ctx, local, tunnel, packet, ethernet, leave_by);
	if (outcome != GO_ON)
		return outcome;
	return packet_from_tunnel(ctx, local, tunnel, packet, ethernet, on_path, leave_by);
}

/* `outcome` is what the outer headers came to: whose they are, is known. */
static __always_inline enum outcome from_tunnel(context *ctx, const struct local_droplet *local,
						struct frame_state *state, enum outcome outcome, __u32 *leave_by)
{
	struct tunnel *tunnel = &state->tunnel;
	enum outcome known;

	if (outcome == GO_ON && !(tunnel->flags & TUNNEL_CONTROL))
		return frame_from_tunnel(ctx, local, state, leave_by);
	known = check_peer(local, tunnel, false);
	if (known != GO_ON || outcome != GO_ON)
		return known != GO_ON ? known : outcome;
	return tunnel->flags & TUNNEL_PROBE ? reflect(ctx, local, tunnel) : GENEVE_CONTROL;
}

/* An outcome that is due to be told ends in transit errors. */
static __always_inline enum outcome from_substrate(context *ctx, struct frame_state *state, __u32 *leave_by)
{
	struct local_droplet *local = 0;
	enum outcome outcome = forgotten(parse_outer(ctx, state, &local));

	if (!local)
		return PASSED;
	state->came_by = state->tunnel.flags;
	if (outcome == OUTER_FRAGMENT || outcome == OUTER_OPTIONS || outcome == MALFORMED_OUTER ||
	    outcome == OUTER_CHECKSUM)
		return outcome;
	outcome = forgotten(from_tunnel(ctx, local, state, outcome, leave_by));
	if (is_to_be_sent(outcome))
		outcome = send_further(ctx, local, &state->tunnel, outcome, leave_by);
	return outcome;
}

/* The transit agent has checked the frame, the source, the length and the time to live, and found the receiver. */
static __always_inline enum outcome from_same_host(context *ctx, const struct interface *sender, __u32 ifindex)
{
	struct ethhdr *ethernet = frame_start(ctx);
	struct interface *receiver;

	if ((void *)(ethernet + 1) > frame_end(ctx))
		return MALFORMED_INNER;
	receiver = receiver_on(ifindex, sender->vni);
	if (!receiver) /* closed: it has just gone, or left this host */
		return NOT_HERE;
	address_to(ethernet, receiver);
	count_delivered(slot_of(ifindex), frame_length(ctx));
	return DELIVERED_SAME_HOST;
}

static __always_inline int by_tunnel(context *ctx, __u32 arrival)
{
	__u32 length = frame_length(ctx), leave_by = arrival;
	struct frame_state *state = new_state(length);
	enum outcome outcome = NO_PROGRAM;

	count(RECEIVED_FROM_SUBSTRATE, length);
	if (state) {
		outcome = from_substrate(ctx, state, &leave_by);
		if (is_to_be_told(outcome))
			outcome = go_on_in_errors(ctx, state, outcome);
	}
	count(outcome, length);
	return verdict(outcome, leave_by);
}

/* By tail call from the transit agent, which has counted it as received. */
static __always_inline int by_tail_call(context *ctx, __u32 arrival)
{
	struct frame_state *state = called_state(TRANSIT_XDP);
	struct interface *sender = sender_on(arrival);
	__u32 length = frame_length(ctx), leave_by = arrival;
	enum outcome outcome = UNKNOWN_INTERFACE; /* closed for an endpoint that is being removed */

	if (sender && !state)
		outcome = NO_PROGRAM;
	if (sender && state) {
		leave_by = state->receiver;
		outcome = from_same_host(ctx, sender, leave_by);
	}
	count_sender(slot_of(arrival), outcome, length);
	count(outcome, length);
	return verdict(outcome, leave_by);
}

int transit_xdp(struct xdp_md *ctx)
{
	__u32 arrival = arrived_on(ctx);

	return arrival < IFINDEX_BASE ? by_tunnel(ctx, arrival) : by_tail_call(ctx, arrival);
}
