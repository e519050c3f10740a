// SPDX-License-Identifier: GPL-2.0-only
/*
 * Transit XDP: all that comes in from the substrate on the droplet's interface, and by tail call from the transit
 * agent what goes to another endpoint of this host.
 */
#include "kernel.h"
#include "structs.h"
#include "constants.h"
#include "outcomes.h"
#include "context.h"
#include "maps.h"
#include "count.h"
#include "sender.h"
#include "address.h"
#include "checksum.h"
#include "packet.h"
#include "extension.h"
#include "tunnel.h"
#include "geneve.h"
#include "vxlan.h"
#include "outer.h"
#include "encapsulate.h"
#include "next_hop.h"
#include "route.h"
#include "arp.h"
#include "nd.h"
#include "gateway.h"
#include "icmp.h"
#include "probe.h"
#include "direct.h"
#include "learn.h"
#include "deliver.h"
#include "peer.h"
#include "roles.h"
#include "resolution.h"

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
						     struct ethhdr *ethernet)
{
	struct transport transport = {};
	enum outcome outcome = find_transport(ethernet, frame_end(ctx), packet, &transport);

	/* A peer that speaks VXLAN has not looked for neighbour discovery: closed where it may be. */
	if (VXLAN_PORT && outcome != GO_ON && tunnel->flags & TUNNEL_VXLAN)
		return outcome;
	if (outcome == GO_ON) {
		if (hides_nd(ethernet, frame_end(ctx), packet, &transport))
			return MALFORMED_INNER;
		if (is_nd(ethernet, frame_end(ctx), &transport)) {
			outcome = nd_from_tunnel(ctx, local, tunnel, packet, &transport, ethernet);
			if (outcome != ND_TYPE || !is_answer(ethernet, frame_end(ctx), tunnel, &transport))
				return outcome;
		}
	}
	return GO_ON;
}

static __always_inline enum outcome frame_from_tunnel(context *ctx, const struct local_droplet *local,
						      struct tunnel *tunnel, struct packet *packet, __u32 *leave_by)
{
	struct ethhdr *ethernet = frame_start(ctx) + bounded(tunnel->headers, MAX_HEADERS);
	enum outcome outcome = MALFORMED_GENEVE, known;
	bool on_path = false;

	if ((void *)(ethernet + 1) <= frame_end(ctx))
		outcome = read_packet(ethernet, frame_end(ctx), tunnel->length, tunnel->vni, packet);
	if (outcome == GO_ON && !tunnel->flags)
		on_path = confirmed_lately(&packet->from, &tunnel->peer.address);
	known = check_peer(local, tunnel, on_path);
	if (known != GO_ON)
		return known;
	if (outcome == GO_ON && INNER_IPV6 && packet->kind == ETH_P_IPV6)
		outcome = forgotten(ipv6_from_tunnel(ctx, local, tunnel, packet, ethernet));
	else if (outcome == INNER_PROTOCOL && ethertype(ethernet) == bpf_htons(ETH_P_ARP))
		outcome = arp_from_tunnel(ctx, local, tunnel, packet, ethernet, leave_by);
	if (outcome != GO_ON)
		return outcome;
	return packet_from_tunnel(ctx, local, tunnel, packet, ethernet, on_path, leave_by);
}

/* `outcome` is what the outer headers came to: whose they are, is known. */
static __always_inline enum outcome from_tunnel(context *ctx, const struct local_droplet *local, struct tunnel *tunnel,
						struct packet *packet, enum outcome outcome, __u32 *leave_by)
{
	enum outcome known;

	if (outcome == GO_ON && !(tunnel->flags & TUNNEL_CONTROL))
		return frame_from_tunnel(ctx, local, tunnel, packet, leave_by);
	known = check_peer(local, tunnel, false);
	if (known != GO_ON || outcome != GO_ON)
		return known != GO_ON ? known : outcome;
	return tunnel->flags & TUNNEL_PROBE ? reflect(ctx, local, tunnel) : GENEVE_CONTROL;
}

/*
 * Finds the hop that leads to tunnel->peer, and what the sender of a packet through it can be told. Answers `sent` when
 * the packet fits through there.
 */
static __always_inline enum outcome find_way_out(struct tunnel *tunnel, struct local_droplet **local,
						 struct next_hop **hop, enum outcome sent)
{
	*hop = find_hop(tunnel, local);
	if (!*hop) /* closed: without the neighbour's address there is nowhere to send */
		return why_no_hop(tunnel, *local);
	/* An IPv4 packet has no room for an IPv6 origin: answers take the way back by this droplet. */
	if (OUTER_IPV4 && !is_over_ipv6(*local) && !is_ipv4(&tunnel->origin) && fits_through(tunnel, *hop, false)) {
		copy_address(&tunnel->origin, &(*local)->address);
		tunnel->rts = (tunnel->rts & ~RTS_VXLAN) | RTS_UNLEARNT;
	}
	/* What is on its way to its sender already has nobody to be told. */
	tunnel->fits = sent == MISDIRECTED ? 0 : endpoint_mtu(*hop, is_over_ipv6(*local));
	return fits_through(tunnel, *hop, is_over_ipv6(*local)) ? sent : DOES_NOT_FIT;
}

/*
 * Whether an endpoint of this host sent a packet that came round by a bouncer, which gave it to this droplet for one of
 * its roles. Closed: who sends in its name from another droplet has it told nothing.
 */
static __always_inline bool came_round(const struct tunnel *tunnel, struct packet *packet, __u8 came_by)
{
	struct endpoint *sender = endpoints.lookup(&packet->from);

	return came_by & TUNNEL_RETURNS && sender && sender->ifindex && !droplets.lookup(&tunnel->origin);
}

/* What came back, or round, was sent by an endpoint of this host, which is told here. */
static __always_inline enum outcome tell_own(struct packet *packet, enum outcome why, __u32 *leave_by)
{
	struct endpoint *sender = endpoints.lookup(&packet->from);
	__u32 ifindex = sender ? ifindex_of(sender) : 0;

	if (!receiver_on(ifindex, packet->from.vni)) /* closed: it has just gone */
		return why == DOES_NOT_FIT ? TOO_BIG : why;
	*leave_by = ifindex;
	return why == DOES_NOT_FIT ? TOO_BIG_TOLD : UNREACHABLE_TOLD;
}

/*
 * Makes a packet that came through a tunnel into an error that tells its sender why it goes no further: what would have
 * fitted, or that nothing leads there. `came_by` is the tunnel's flags as they were read: what the sender's droplet
 * speaks. An error to a remote sender is still to be sent to tunnel->peer.
 */
static __always_inline enum outcome tell_sender(context *ctx, struct local_droplet *local, struct tunnel *tunnel,
						struct packet *packet, __u8 came_by, enum outcome why, __u32 *leave_by)
{
	bool too_big = why == DOES_NOT_FIT;
	struct complaint complaint = {
		.kind = error_about(why, INNER_IPV6 && packet->kind == ETH_P_IPV6, 0),
		.routed = !too_big && why != NO_ENDPOINT && why != ALL_MISDIRECTED,
		.value = too_big ? tunnel->fits : 0,
		.from = tunnel->headers,
	};
	struct transport transport = {};
	struct ethhdr *ethernet = frame_start(ctx) + bounded(tunnel->headers, MAX_HEADERS);
	enum outcome outcome;

	if (too_big && !complaint.value)
		return TOO_BIG;
	if (find_transport(ethernet, frame_end(ctx), packet, &transport) != GO_ON)
		return untold(why);
	if (!is_told(ethernet, frame_end(ctx), packet, &transport, &complaint))
		return untold(why);
	outcome = complain(ctx, packet, &complaint, untold(why));
	if (outcome != DOES_NOT_FIT)
		return outcome;
	if (came_by & TUNNEL_COMES_BACK || came_round(tunnel, packet, came_by))
		return tell_own(packet, why, leave_by);
	tunnel->headers = 0;
	tunnel->length = frame_length(ctx);
	tunnel->flags = came_by;
	return to_origin(local, tunnel, too_big ? TOO_BIG_TOLD_REMOTE : UNREACHABLE_TOLD_REMOTE);
}

static __always_inline bool is_to_be_sent(enum outcome outcome)
{
	return outcome >= FIRST_SENT && outcome < FIRST_DROPPED;
}

/* What becomes of a tunnel packet whose outer headers are right, as far as `outcome`: on, back, or nowhere. */
static __always_inline enum outcome send_further(context *ctx, struct local_droplet *local, struct tunnel *tunnel,
						 struct packet *packet, __u8 came_by, enum outcome outcome,
						 __u32 *leave_by)
{
	struct next_hop *hop = 0;
	enum outcome why;

	if (!is_to_be_sent(outcome) && outcome != DOES_NOT_FIT && !is_unreachable(outcome))
		return outcome;
	forget_words(ctx, tunnel, sizeof(*tunnel));
	forget_words(ctx, packet, sizeof(*packet));
	if (is_to_be_sent(outcome))
		outcome = forgotten(find_way_out(tunnel, &local, &hop, outcome));
	if (outcome == DOES_NOT_FIT || is_unreachable(outcome)) {
		why = outcome;
		outcome = forgotten(tell_sender(ctx, local, tunnel, packet, came_by, why, leave_by));
		if (is_to_be_sent(outcome))
			outcome = forgotten(find_way_out(tunnel, &local, &hop, outcome));
		if (outcome == DOES_NOT_FIT)
			outcome = untold(why);
	}
	if (!is_to_be_sent(outcome))
		return outcome;
	if (!hop) /* the verifier does not know that a way out was found */
		return NEXT_HOP_UNRESOLVED;
	*leave_by = local->leaves;
	return send(ctx, local, tunnel, hop, 0, outcome);
}

static __always_inline enum outcome from_substrate(context *ctx, __u32 *leave_by)
{
	struct local_droplet *local = 0;
	struct tunnel tunnel = {};
	struct packet packet = {};
	enum outcome outcome = forgotten(parse_outer(ctx, &tunnel, &local));
	__u8 came_by = tunnel.flags;

	if (!local)
		return PASSED;
	forget_words(ctx, &tunnel, sizeof(tunnel));
	if (outcome == OUTER_FRAGMENT || outcome == OUTER_OPTIONS || outcome == MALFORMED_OUTER ||
	    outcome == OUTER_CHECKSUM)
		return outcome;
	outcome = forgotten(from_tunnel(ctx, local, &tunnel, &packet, outcome, leave_by));
	return send_further(ctx, local, &tunnel, &packet, came_by, outcome, leave_by);
}

/* The transit agent has checked the frame, the source, the length and the time to live. */
static __always_inline enum outcome from_same_host(context *ctx, const struct interface *sender, __u32 *leave_by)
{
	struct ethhdr *ethernet = frame_start(ctx);
	struct packet packet = {};
	struct endpoint *endpoint;
	struct interface *receiver;
	__u32 ifindex;

	if ((void *)(ethernet + 1) > frame_end(ctx))
		return MALFORMED_INNER;
	if (read_packet(ethernet, frame_end(ctx), frame_length(ctx), sender->vni, &packet) != GO_ON)
		return MALFORMED_INNER;
	endpoint = endpoints.lookup(&packet.to);
	ifindex = endpoint ? ifindex_of(endpoint) : 0;
	receiver = receiver_on(ifindex, sender->vni);
	if (!receiver) /* closed: it has just gone, or left this host */
		return NOT_HERE;
	address_to(ethernet, receiver);
	*leave_by = ifindex;
	count_delivered(slot_of(ifindex), frame_length(ctx));
	return DELIVERED_SAME_HOST;
}

int transit_xdp(struct xdp_md *ctx)
{
	__u32 arrival = arrived_on(ctx), length = frame_length(ctx), leave_by = arrival;
	struct interface *sender;
	enum outcome outcome;

	if (arrival < IFINDEX_BASE) {
		count(RECEIVED_FROM_SUBSTRATE, length);
		outcome = from_substrate(ctx, &leave_by);
		count(outcome, length);
		return verdict(outcome, leave_by);
	}
	/* By tail call from the transit agent, which has counted it as received. */
	sender = sender_on(arrival);
	outcome = UNKNOWN_INTERFACE; /* closed for an endpoint that is being removed */
	if (sender) {
		outcome = from_same_host(ctx, sender, &leave_by);
		count_sender(slot_of(arrival), outcome, length);
	}
	count(outcome, length);
	return verdict(outcome, leave_by);
}
