/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Frames from the underlay: the program on the interfaces that receive them. By tail call from the program for frames
 * of endpoints also frames from one endpoint of this host to another.
 */
#ifndef DROPLET_FROM_UNDERLAY_H
#define DROPLET_FROM_UNDERLAY_H

#include "lib/direct_path.h"
#include "lib/endpoint.h"
#include "lib/next_hop.h"
#include "lib/outer.h"
#include "lib/peer.h"
#include "lib/probe.h"
#include "lib/resolution_tunnel.h"
#include "lib/roles.h"
#include "lib/stages.h"
#include "lib/state.h"

/* CONTINUE for an IP packet, parsed up to its transport header. */
static __always_inline enum outcome parse_inner(context *ctx, struct frame_state *state)
{
	struct tunnel *tunnel = &state->tunnel;
	struct ethhdr *ethernet = inner_frame(ctx, state);
	void *end = inner_end(ctx);
	enum outcome outcome;

	tunnel->longest = tunnel->length;
	if ((void *)(ethernet + 1) > end)
		return MALFORMED_GENEVE;
	outcome = unknown_scalar(read_packet(ethernet, end, tunnel->length, tunnel->vni, &state->packet));
	if (outcome != CONTINUE)
		return outcome;
	outcome = unknown_scalar(find_transport(ethernet, end, &state->packet, &state->transport));
	if (set_segments(ctx, ethernet, end, state) != CONTINUE)
		return GSO_PACKET;
	/* Droplets check extension headers at the sender, VXLAN peers do not. */
	return VXLAN_PORT && tunnel->flags & TUNNEL_VXLAN ? outcome : CONTINUE;
}

/* Learns the path to the sender and checks the MTU of a local receiver. */
static __always_inline enum outcome route_to_endpoint(struct tunnel *tunnel, struct packet *packet,
						      const struct interface *receiver, bool on_path)
{
	bool known = on_path || tunnel->flags & TUNNEL_RETURNED;
	enum outcome outcome = known ? CONTINUE : learn_path(tunnel, &packet->from, receiver);

	if (outcome != CONTINUE)
		return outcome;
	if (!fits_mtu(receiver->mtu, tunnel)) {
		tunnel->mtu = receiver->mtu;
		return EXCEEDS_MTU;
	}
	return DELIVERED;
}

/*
 * The local receiver of a packet, if its slot is cached, else NULL. Packets with RTS, returned ones, and packets of
 * VXLAN peers to a pinned network may have to pass a divider first, which depends on more than the receiver.
 */
static __always_inline struct interface *cached_receiver(const struct tunnel *tunnel, const struct packet *packet,
							 __u32 *tx_ifindex)
{
	struct interface *receiver;

	if (tunnel->flags & (TUNNEL_RTS | TUNNEL_RETURNED))
		return 0;
	receiver = find_cached_receiver(&packet->to, tx_ifindex);
	if (VXLAN_PORT && receiver && tunnel->flags & TUNNEL_VXLAN && receiver->flags & INTERFACE_PINNED)
		return 0;
	return receiver;
}

/* What droplets check at the sender. `goes_on`: the packet is not for an endpoint of this host. */
static __always_inline enum outcome check_vxlan_packet(context *ctx, struct ethhdr *ethernet,
						       const struct tunnel *tunnel, const struct packet *packet,
						       bool goes_on)
{
	if (!VXLAN_PORT || !(tunnel->flags & TUNNEL_VXLAN))
		return CONTINUE;
	if (is_group_mac(ethernet->h_dest))
		return MULTICAST;
	return check_vxlan_source(ethernet, frame_end(ctx), tunnel, packet, goes_on);
}

static __always_inline enum outcome route_tunnel_packet(context *ctx, const struct local_droplet *local,
							struct tunnel *tunnel, struct packet *packet,
							struct ethhdr *ethernet, bool on_path, __u32 *tx_ifindex)
{
	enum outcome outcome = merge_ecn(ethernet, packet, tunnel->tos);
	__u64 now = generation(GENERATION_ENDPOINTS);
	struct interface *receiver;
	struct endpoint *endpoint;
	bool undivided;

	if (outcome != CONTINUE)
		return outcome;
	receiver = cached_receiver(tunnel, packet, tx_ifindex);
	if (receiver) {
		outcome = check_vxlan_packet(ctx, ethernet, tunnel, packet, false);
		return outcome == CONTINUE ? route_to_endpoint(tunnel, packet, receiver, on_path) : outcome;
	}
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
	outcome = check_vxlan_packet(ctx, ethernet, tunnel, packet, undivided || !endpoint || !endpoint->ifindex);
	if (outcome != CONTINUE)
		return outcome;
	if (undivided) {
		outcome = pass_divider(tunnel, packet);
		if (outcome != CONTINUE)
			return outcome < FIRST_DROPPED ? forward(local, tunnel, false, outcome) : outcome;
	}
	if (endpoint && endpoint->ifindex) { /* a miss is closed, unless this host has a role for it */
		*tx_ifindex = ifindex_of(endpoint);
		receiver = find_receiver(*tx_ifindex, tunnel->vni);
		if (!receiver) /* closed: it was just removed */
			return ENDPOINT_NOT_LOCAL;
		if (!(tunnel->flags & (TUNNEL_RTS | TUNNEL_RETURNED)))
			cache_receiver(&packet->to, receiver, *tx_ifindex, now);
		return route_to_endpoint(tunnel, packet, receiver, on_path);
	}
	return forward_by_role(local, tunnel, packet, endpoint);
}

/* Answers or drops neighbour discovery; CONTINUE for other packets, and for advertisements of a bouncer. */
static __always_inline enum outcome nd_of_tunnel_packet(context *ctx, const struct local_droplet *local,
							struct frame_state *state, struct ethhdr *ethernet)
{
	struct transport *transport = &state->transport;
	enum outcome outcome;

	if (!transport->parsed)
		return CONTINUE;
	if (may_hide_nd(ethernet, frame_end(ctx), &state->packet, transport))
		return MALFORMED_INNER;
	if (!is_nd(ethernet, frame_end(ctx), transport))
		return CONTINUE;
	outcome = nd_from_tunnel(ctx, local, &state->tunnel, &state->packet, transport, ethernet);
	return outcome == ND_TYPE && is_bouncer_advertisement(ethernet, frame_end(ctx), &state->tunnel, transport)
		       ? CONTINUE
		       : outcome;
}

/* Looks up the route of an inner frame, for which parse_inner() returned `outcome`. */
static __always_inline enum outcome route_inner_frame(context *ctx, const struct local_droplet *local,
						      struct frame_state *state, enum outcome outcome, bool on_path,
						      __u32 *tx_ifindex)
{
	struct tunnel *tunnel = &state->tunnel;
	struct packet *packet = &state->packet;
	struct ethhdr *ethernet = frame_start(ctx) + bounded(tunnel->headers, MAX_HEADERS);

	if ((void *)(ethernet + 1) > frame_end(ctx))
		return MALFORMED_GENEVE;
	if (outcome == INNER_PROTOCOL && ethertype(ethernet) == bpf_htons(ETH_P_ARP))
		return arp_from_tunnel(ctx, local, tunnel, packet, ethernet, tx_ifindex);
	if (outcome != CONTINUE || !has_ip_header(ethernet, frame_end(ctx), packet))
		return outcome != CONTINUE ? outcome : MALFORMED_INNER;
	if (INNER_IPV6 && packet->kind == ETH_P_IPV6)
		outcome = unknown_scalar(nd_of_tunnel_packet(ctx, local, state, ethernet));
	if (outcome != CONTINUE)
		return outcome;
	return route_tunnel_packet(ctx, local, tunnel, packet, ethernet, on_path, tx_ifindex);
}

/*
 * Whether the outer checksum of a packet will be right once a device has completed the inner one: senders on this
 * machine compute it for that (lco_csum() in include/linux/skbuff.h). The completed segment sums to the complement of
 * what is in its checksum's place now, so only the headers in front of it are read.
 */
static __always_inline bool covers_completed(context *ctx, const struct frame_state *state)
{
	const struct outer *outer = &state->outer;
	void *start = frame_start(ctx), *end = frame_end(ctx);
	__u32 headers = bounded(state->tunnel.headers, MAX_HEADERS), at = bounded(outer->udp, FIRST_HEADERS);
	__u16 *field = unfinished_checksum(start + headers, end, &state->packet, &state->transport);
	__u64 sum = outer->pseudo + bpf_htonl(outer->ip_payload);

	if (!field)
		return false;
	sum += (__u16) ~*field;
	return sum_fold(sum_bytes(start + at, end, headers + state->transport.offset - at, sum)) == 0xffff;
}

static __always_inline bool is_invalid_outer(enum outcome outcome)
{
	return outcome == OUTER_FRAGMENT || outcome == OUTER_OPTIONS || outcome == MALFORMED_OUTER ||
	       outcome == OUTER_CHECKSUM;
}

/* Runs the functions for tunnel packets of this VPC, if there are any; else returns `outcome`. */
static __always_inline enum outcome functions_of_underlay(context *ctx, struct frame_state *state, enum outcome outcome,
							  bool on_path)
{
#if STAGES
	__u32 chain = underlay_chain(state->tunnel.vni);

	if (chain) {
		state->on_path = on_path;
		return call_chain(ctx, state, STAGE_FROM_UNDERLAY, chain, outcome);
	}
#endif
	return outcome;
}

/* Delivers a packet from a tunnel to a local endpoint, after the functions for what it receives. */
static __always_inline enum outcome deliver_to(context *ctx, struct frame_state *state, __u32 ifindex)
{
	struct interface *receiver = find_receiver(ifindex, state->tunnel.vni);

	if (!receiver)
		return ENDPOINT_NOT_LOCAL;
#if STAGES
	__u32 chain = endpoint_chain(receiver, ifindex, INTERFACE_STAGES_TO);

	if (chain) {
		state->receiver = ifindex;
		return call_to_endpoint(ctx, state, receiver, chain, DELIVERED);
	}
#endif
	return deliver(ctx, state, receiver, ifindex, DELIVERED);
}

/* A packet from a tunnel whose route was looked up. */
static __always_inline enum outcome deliver_or_forward(context *ctx, struct local_droplet *local,
						       struct frame_state *state, enum outcome outcome,
						       __u32 *tx_ifindex)
{
	if (outcome == DELIVERED)
		return deliver_to(ctx, state, *tx_ifindex);
	if (!leaves_by_tunnel(outcome))
		return outcome;
#if STAGES
	__u32 chain = forwarded_chain(state->tunnel.vni, outcome);

	if (chain)
		return call_chain(ctx, state, STAGE_FORWARDED, chain, outcome);
#endif
	return send_through_tunnel(ctx, local, &state->tunnel, &state->packet, &state->transport, outcome, tx_ifindex);
}

/* Parse, identify the peer, look up the route, rewrite. Returns an outcome that transit errors answers, or the last
 * one. */
static __always_inline enum outcome from_underlay(context *ctx, struct frame_state *state, __u32 *tx_ifindex)
{
	struct tunnel *tunnel = &state->tunnel;
	struct local_droplet *local = 0;
	enum outcome outcome = unknown_scalar(parse_outer(ctx, state, &local)), peer;
	bool on_path = false;

	if (!local)
		return PASSED;
	state->received_flags = tunnel->flags;
	if (is_invalid_outer(outcome))
		return outcome;
	if (outcome == CONTINUE && !(tunnel->flags & TUNNEL_CONTROL))
		outcome = unknown_scalar(parse_inner(ctx, state));
	if (HAS_GSO && state->outer.unsure && (outcome != CONTINUE || !covers_completed(ctx, state)))
		return OUTER_CHECKSUM;

	if (outcome == CONTINUE && !tunnel->flags)
		on_path = recently_confirmed(&state->packet.from, &tunnel->peer.address, tunnel);
	peer = check_peer(local, tunnel, on_path);
	if (peer != CONTINUE)
		return peer;

	if (tunnel->flags & TUNNEL_CONTROL && outcome == CONTINUE)
		return tunnel->flags & TUNNEL_PROBE ? reflect_probe(ctx, local, state) : GENEVE_CONTROL;
	if (STAGES && (outcome == CONTINUE || outcome == INNER_PROTOCOL))
		outcome = functions_of_underlay(ctx, state, outcome, on_path);
	if (outcome == CONTINUE || outcome == INNER_PROTOCOL)
		outcome = forgotten(route_inner_frame(ctx, local, state, outcome, on_path, tx_ifindex));
	return deliver_or_forward(ctx, local, state, outcome, tx_ifindex);
}

/* Rewrites the Ethernet header for another endpoint of this host. Returns `delivered`, or a drop. */
static __always_inline enum outcome hand_over(context *ctx, const struct interface *receiver,
					      const struct frame_state *state, __u32 ifindex, enum outcome delivered)
{
	struct ethhdr *ethernet = frame_start(ctx);

	if (is_function_endpoint(receiver)) /* closed: none of its functions took it */
		return NO_FUNCTION;
	if ((void *)(ethernet + 1) > frame_end(ctx))
		return MALFORMED_INNER;
	rewrite_ethernet(ethernet, receiver);
	count_delivered(slot_of(ifindex), amount_of(ctx, state));
	return delivered;
}

/* The caller has checked frame, source, length and time to live, and found the receiver. */
static __always_inline enum outcome deliver_same_host(context *ctx, const struct interface *sender,
						      struct frame_state *state, __u32 ifindex)
{
	struct interface *receiver = find_receiver(ifindex, sender->vni);

	if (!receiver) /* closed: it was just removed or has moved */
		return ENDPOINT_NOT_LOCAL;
#if STAGES
	__u32 chain = endpoint_chain(receiver, ifindex, INTERFACE_STAGES_TO);

	if (chain)
		return call_to_endpoint(ctx, state, receiver, chain, DELIVERED_SAME_HOST);
#endif
	return hand_over(ctx, receiver, state, ifindex, DELIVERED_SAME_HOST);
}

static __always_inline int process_underlay_frame(context *ctx)
{
	__u32 tx_ifindex = ingress_ifindex(ctx);
	struct frame_state *state = new_state(ctx);
	enum outcome outcome = NO_PROGRAM;

	if (state) {
		outcome = from_underlay(ctx, state, &tx_ifindex);
		if (needs_icmp_error(outcome))
			outcome = call_errors(ctx, state, outcome);
		outcome = observe_end(ctx, state, outcome);
	}
	return leave(ctx, RECEIVED_FROM_UNDERLAY, outcome, amount_of(ctx, state), tx_ifindex);
}

/* By tail call from the program for frames of endpoints. */
static __always_inline int process_same_host_frame(context *ctx)
{
	struct frame_state *state = called_state(SLOT_SAME_HOST);
	__u32 rx_ifindex = source_ifindex(ctx, state), tx_ifindex = rx_ifindex;
	struct interface *sender = find_interface(rx_ifindex);
	enum outcome outcome = UNKNOWN_INTERFACE; /* closed: the endpoint is being removed */

	if (sender && !state)
		outcome = NO_PROGRAM;
	if (sender && state) {
		tx_ifindex = state->receiver;
		outcome = observe_end(ctx, state, deliver_same_host(ctx, sender, state, tx_ifindex));
	}
	return leave_endpoint(ctx, rx_ifindex, outcome, amount_of(ctx, state), tx_ifindex);
}

/* Frames of the underlay, and by tail call those for the same host. */
static __always_inline int process_underlay(context *ctx)
{
	return ingress_ifindex(ctx) < IFINDEX_BASE ? process_underlay_frame(ctx) : process_same_host_frame(ctx);
}

#endif
