// SPDX-License-Identifier: GPL-2.0-only
/*
 * Transit XDP: all frames from the underlay, and by tail call from the transit agent those from one endpoint of this
 * host to another.
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
							bool on_path, __u32 *tx_ifindex)
{
	bool known = on_path || tunnel->flags & TUNNEL_RETURNED;
	enum outcome outcome = known ? CONTINUE : learn_path(tunnel, &packet->from, endpoint);

	if (outcome != CONTINUE)
		return outcome;
	if (!fits_mtu(endpoint, tunnel->length)) {
		tunnel->mtu = endpoint->mtu;
		return EXCEEDS_MTU;
	}
	return deliver(ctx, tunnel, ethernet, endpoint, tx_ifindex);
}

static __always_inline enum outcome packet_from_tunnel(context *ctx, const struct local_droplet *local,
						       struct tunnel *tunnel, struct packet *packet,
						       struct ethhdr *ethernet, bool on_path, __u32 *tx_ifindex)
{
	enum outcome outcome = merge_ecn(ethernet, packet, tunnel->tos);
	struct endpoint *endpoint;
	bool undivided;

	if (outcome != CONTINUE)
		return outcome;
	endpoint = endpoints.lookup(&packet->to);
	if (!endpoint && (is_multicast_packet(packet) || is_subnet_broadcast(&packet->to)))
		return MULTICAST;
	if (!endpoint && is_own_misdirected(tunnel, packet)) {
		tunnel->flags = TUNNEL_MISDIRECTED;
		copy_address(&tunnel->origin, &tunnel->peer.address);
	}
	if (tunnel->flags & TUNNEL_RETURNED)
		outcome = resend_returned(local, tunnel, packet);
	if (outcome != CONTINUE)
		return outcome;
	tunnel->tos = (tunnel->tos & ~ECN_MASK) | (packet->tos & ECN_MASK);
	undivided = must_pass_divider(tunnel, packet, endpoint);
	if (VXLAN_PORT && tunnel->flags & TUNNEL_VXLAN) {
		if (is_group_mac(ethernet->h_dest)) /* droplets check that at the sender */
			return MULTICAST;
		outcome = check_vxlan_source(ethernet, frame_end(ctx), tunnel, packet,
					     undivided || !endpoint || !endpoint->ifindex);
		if (outcome != CONTINUE)
			return outcome;
	}
	if (undivided) {
		outcome = pass_divider(tunnel, packet);
		if (outcome != CONTINUE)
			return outcome < FIRST_DROPPED ? forward(local, tunnel, false, outcome) : outcome;
	}
	if (endpoint && endpoint->ifindex) /* a miss is closed, unless this host has a role for it */
		return deliver_from_tunnel(ctx, tunnel, packet, ethernet, endpoint, on_path, tx_ifindex);
	return forward_by_role(local, tunnel, packet, endpoint);
}

/* Handles neighbour discovery; CONTINUE for other packets. */
static __always_inline enum outcome ipv6_from_tunnel(context *ctx, const struct local_droplet *local,
						     struct tunnel *tunnel, struct packet *packet,
						     struct transport *transport, struct ethhdr *ethernet)
{
	enum outcome outcome = find_transport(ethernet, frame_end(ctx), packet, transport);

	/* Closed: VXLAN peers do not filter neighbour discovery, which may be hidden here. */
	if (VXLAN_PORT && outcome != CONTINUE && tunnel->flags & TUNNEL_VXLAN)
		return outcome;
	if (outcome == CONTINUE) {
		if (may_hide_nd(ethernet, frame_end(ctx), packet, transport))
			return MALFORMED_INNER;
		if (is_nd(ethernet, frame_end(ctx), transport)) {
			outcome = nd_from_tunnel(ctx, local, tunnel, packet, transport, ethernet);
			if (outcome != ND_TYPE ||
			    !is_bouncer_advertisement(ethernet, frame_end(ctx), tunnel, transport))
				return outcome;
		}
	}
	return CONTINUE;
}

static __always_inline enum outcome frame_from_tunnel(context *ctx, const struct local_droplet *local,
						      struct frame_state *state, __u32 *tx_ifindex)
{
	struct tunnel *tunnel = &state->tunnel;
	struct packet *packet = &state->packet;
	struct ethhdr *ethernet = frame_start(ctx) + bounded(tunnel->headers, MAX_HEADERS);
	enum outcome outcome = MALFORMED_GENEVE, known;
	bool on_path = false;

	if ((void *)(ethernet + 1) <= frame_end(ctx))
		outcome = unknown_scalar(read_packet(ethernet, frame_end(ctx), tunnel->length, tunnel->vni, packet));
	if (outcome == CONTINUE && !tunnel->flags)
		on_path = recently_confirmed(&packet->from, &tunnel->peer.address);
	known = check_peer(local, tunnel, on_path);
	if (known != CONTINUE)
		return known;
	if (outcome == CONTINUE && INNER_IPV6 && packet->kind == ETH_P_IPV6)
		outcome = unknown_scalar(ipv6_from_tunnel(ctx, local, tunnel, packet, &state->transport, ethernet));
	else if (outcome == INNER_PROTOCOL && ethertype(ethernet) == bpf_htons(ETH_P_ARP))
		outcome = arp_from_tunnel(ctx, local, tunnel, packet, ethernet, tx_ifindex);
	if (outcome != CONTINUE)
		return outcome;
	return packet_from_tunnel(ctx, local, tunnel, packet, ethernet, on_path, tx_ifindex);
}

/* `outcome` is that of the outer headers, from which the peer is known. */
static __always_inline enum outcome from_tunnel(context *ctx, const struct local_droplet *local,
						struct frame_state *state, enum outcome outcome, __u32 *tx_ifindex)
{
	struct tunnel *tunnel = &state->tunnel;
	enum outcome known;

	if (outcome == CONTINUE && !(tunnel->flags & TUNNEL_CONTROL))
		return frame_from_tunnel(ctx, local, state, tx_ifindex);
	known = check_peer(local, tunnel, false);
	if (known != CONTINUE || outcome != CONTINUE)
		return known != CONTINUE ? known : outcome;
	return tunnel->flags & TUNNEL_PROBE ? reflect_probe(ctx, local, tunnel) : GENEVE_CONTROL;
}

/* Returns an outcome that transit errors answers, or the final one. */
static __always_inline enum outcome from_underlay(context *ctx, struct frame_state *state, __u32 *tx_ifindex)
{
	struct local_droplet *local = 0;
	enum outcome outcome = unknown_scalar(parse_outer(ctx, state, &local));

	if (!local)
		return PASSED;
	state->received_flags = state->tunnel.flags;
	if (outcome == OUTER_FRAGMENT || outcome == OUTER_OPTIONS || outcome == MALFORMED_OUTER ||
	    outcome == OUTER_CHECKSUM)
		return outcome;
	outcome = unknown_scalar(from_tunnel(ctx, local, state, outcome, tx_ifindex));
	if (leaves_by_tunnel(outcome))
		outcome = send_through_tunnel(ctx, local, &state->tunnel, outcome, tx_ifindex);
	return outcome;
}

/* The transit agent has checked frame, source, length and time to live, and found the receiver. */
static __always_inline enum outcome from_same_host(context *ctx, const struct interface *sender, __u32 ifindex)
{
	struct ethhdr *ethernet = frame_start(ctx);
	struct interface *receiver;

	if ((void *)(ethernet + 1) > frame_end(ctx))
		return MALFORMED_INNER;
	receiver = find_receiver(ifindex, sender->vni);
	if (!receiver) /* closed: it was just removed or has moved */
		return ENDPOINT_NOT_LOCAL;
	rewrite_ethernet(ethernet, receiver);
	count_delivered(slot_of(ifindex), frame_length(ctx));
	return DELIVERED_SAME_HOST;
}

static __always_inline int by_tunnel(context *ctx, __u32 rx_ifindex)
{
	__u32 length = frame_length(ctx), tx_ifindex = rx_ifindex;
	struct frame_state *state = new_state(length);
	enum outcome outcome = NO_PROGRAM;

	count(RECEIVED_FROM_UNDERLAY, length);
	if (state) {
		outcome = from_underlay(ctx, state, &tx_ifindex);
		if (needs_icmp_error(outcome))
			outcome = call_transit_errors(ctx, state, outcome);
	}
	count(outcome, length);
	return verdict(outcome, tx_ifindex);
}

/* By tail call from the transit agent, which counted it as received. */
static __always_inline int by_tail_call(context *ctx, __u32 rx_ifindex)
{
	struct frame_state *state = called_state(TRANSIT_XDP);
	struct interface *sender = find_interface(rx_ifindex);
	__u32 length = frame_length(ctx), tx_ifindex = rx_ifindex;
	enum outcome outcome = UNKNOWN_INTERFACE; /* closed: the endpoint is being removed */

	if (sender && !state)
		outcome = NO_PROGRAM;
	if (sender && state) {
		tx_ifindex = state->receiver;
		outcome = from_same_host(ctx, sender, tx_ifindex);
	}
	count_sender(slot_of(rx_ifindex), outcome, length);
	count(outcome, length);
	return verdict(outcome, tx_ifindex);
}

int transit_xdp(struct xdp_md *ctx)
{
	__u32 rx_ifindex = ingress_ifindex(ctx);

	return rx_ifindex < IFINDEX_BASE ? by_tunnel(ctx, rx_ifindex) : by_tail_call(ctx, rx_ifindex);
}
