/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Frames that endpoints send: the program on the host side of every endpoint's veth. It finds the endpoint by the
 * ifindex, so there is one program for all.
 */
#ifndef DROPLET_FROM_ENDPOINT_H
#define DROPLET_FROM_ENDPOINT_H

#include "lib/checksum.h"
#include "lib/egress_route.h"
#include "lib/icmp.h"
#include "lib/packet.h"
#include "lib/resolution_endpoint.h"
#include "lib/stages.h"
#include "lib/state.h"

/* CONTINUE for an IP packet from the endpoint's Ethernet address, parsed up to its transport header. */
static __always_inline enum outcome parse_endpoint_frame(context *ctx, struct ethhdr *ethernet, void *end,
							 const struct interface *sender, struct egress *egress)
{
	enum outcome outcome;

	if (!same_mac(ethernet->h_source, sender->mac))
		return SOURCE_MAC;
	outcome = read_packet(ethernet, end, egress->tunnel->length, sender->vni, egress->packet);
	if (outcome == CONTINUE)
		outcome = find_transport(ethernet, end, egress->packet, egress->transport);
	if (outcome == CONTINUE)
		outcome = set_segments(ctx, ethernet, end, egress->state);
	return outcome;
}

static __always_inline bool is_own_source(const struct packet *packet, const struct interface *sender)
{
	if (INNER_IPV6 && packet->kind == ETH_P_IPV6)
		return same_address(&packet->from.address, &sender->ipv6) && !is_unspecified(&sender->ipv6);
	return unmapped(&packet->from.address) == sender->ipv4 && sender->ipv4;
}

/*
 * CONTINUE for a packet from the endpoint's own address to a single receiver. Multicast is checked first: hosts without
 * an address send it, too.
 */
static __always_inline enum outcome check_addresses(const struct ethhdr *ethernet, const struct packet *packet,
						    const struct interface *sender)
{
	if (is_group_mac(ethernet->h_dest) || is_multicast_packet(packet))
		return MULTICAST;
	if (!is_own_source(packet, sender))
		return SOURCE_ADDRESS;
	if (INNER_IPV6 && packet->kind == ETH_P_IPV6 && is_link_local(&packet->to.address))
		return LINK_LOCAL;
	return CONTINUE;
}

/* Checks the source, the receiver and the MTU, and hashes the flow. */
static __always_inline enum outcome check_packet(struct ethhdr *ethernet, void *end, __u32 slot,
						 const struct interface *sender, struct egress *egress)
{
	enum outcome outcome = check_addresses(ethernet, egress->packet, sender);

	if (outcome == CONTINUE)
		outcome = hash_flow(ethernet, end, slot, egress->packet, egress->transport, &egress->flow);
	if (outcome != CONTINUE)
		return outcome;
	egress->tunnel->mtu = sender->mtu;
	if (!fits_mtu(sender->mtu, egress->tunnel))
		return EXCEEDS_MTU;
	egress->tunnel->tos = sender->tos | (egress->packet->tos & ECN_MASK);
	return CONTINUE;
}

/* Looks up the route of a packet, and decrements its time to live if it was sent to the gateway. */
static __always_inline enum outcome route_packet(struct ethhdr *ethernet, void *end, const struct interface *sender,
						 struct egress *egress)
{
	enum outcome outcome = find_route(ethernet, end, sender, egress);

	if (outcome < FIRST_FORWARDED || outcome >= FIRST_DROPPED || !is_gateway_mac(ethernet->h_dest))
		return outcome;
	return decrement_ttl(ethernet, egress->packet) == CONTINUE ? outcome : INNER_TTL;
}

/* Parses the frame, checks its source, and looks up its route. */
static __always_inline enum outcome route_endpoint_frame(context *ctx, const struct interface *sender,
							 struct egress *egress)
{
	struct ethhdr *ethernet = frame_start(ctx);
	void *end = frame_end(ctx);
	enum outcome outcome;

	if ((void *)(ethernet + 1) > end)
		return MALFORMED_INNER;
	outcome = parse_endpoint_frame(ctx, ethernet, end, sender, egress);
	if (removed_tag(ctx) && outcome != SOURCE_MAC)
		return is_group_mac(ethernet->h_dest) ? MULTICAST : INNER_PROTOCOL;
	if (outcome == INNER_PROTOCOL && ethertype(ethernet) == bpf_htons(ETH_P_ARP))
		return arp_from_endpoint(ctx, sender, egress);
	if (outcome == INNER_PROTOCOL && is_group_mac(ethernet->h_dest))
		return MULTICAST;
	if (outcome != CONTINUE)
		return outcome;
	if (INNER_IPV6 && egress->packet->kind == ETH_P_IPV6) {
		if (may_hide_nd(ethernet, end, egress->packet, egress->transport))
			return MALFORMED_INNER;
		if (is_nd(ethernet, end, egress->transport))
			return nd_from_endpoint(ctx, sender, egress);
	}
	outcome = check_packet(ethernet, end, slot_of(ingress_ifindex(ctx)), sender, egress);
	if (STAGES && outcome == CONTINUE && sender->flags & INTERFACE_STAGES_FROM)
		return RUN_FUNCTIONS;
	return outcome == CONTINUE ? route_packet(ethernet, end, sender, egress) : outcome;
}

/* Everything of `egress` that follows from the sender. */
static __always_inline void set_egress(struct egress *egress, const struct interface *sender, struct frame_state *state)
{
	__u32 index = sender->droplet;

	egress->state = state;
	egress->packet = &state->packet;
	egress->tunnel = &state->tunnel;
	egress->transport = &state->transport;
	egress->tunnel->label = sender->label;	       /* for receivers that ask */
	egress->local = local_droplets.lookup(&index); /* closed later, if needed: NO_LOCAL_DROPLET */
	if (egress->local && !egress->local->interface)
		egress->local = 0;
}

static __always_inline void begin_egress(struct egress *egress, const struct interface *sender,
					 struct frame_state *state)
{
	set_egress(egress, sender, state);
	egress->tunnel->vni = sender->vni;
	egress->tunnel->length = state->length;
	egress->tunnel->longest = state->length;
}

/* Whether a device may still have to complete the packet's checksum, or to cut it. */
static __always_inline bool may_need_offloads(const struct egress *egress)
{
	__u32 protocol = egress->transport->protocol;

	return HAS_GSO && egress->packet->kind && (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP);
}

/* The frame; one that a function endpoint sends may still have the outer headers with which it came. */
static __always_inline void *sent_frame(context *ctx, const struct egress *egress)
{
	return STAGES ? (void *)inner_frame(ctx, egress->state) : frame_start(ctx);
}

/* Encapsulates the frame and sends it to tunnel.peer. */
static __always_inline enum outcome send_out(context *ctx, const struct interface *sender, struct egress *egress,
					     enum outcome sent, __u32 *tx_ifindex)
{
	struct tunnel *tunnel = egress->tunnel;
	struct next_hop *hop = egress->hop;
	struct inner_sum inner = {.unread = tunnel->length};
	bool ipv6;

	if (!egress->local)
		return NO_LOCAL_DROPLET;
	if (!hop)
		hop = find_hop(tunnel, &egress->local);
	if (!hop) /* closed: it cannot be sent without an Ethernet address */
		return no_hop_reason(tunnel, egress->local);
	ipv6 = is_over_ipv6(egress->local);
	tunnel->source_port = bpf_htons(EPHEMERAL_FIRST + (egress->flow & EPHEMERAL_MASK));
	tunnel->ttl = NEW_TTL;
	tunnel->rts = sender->flags & INTERFACE_LABELS ? RTS_LABELS : 0;
	if (sent != SENT_DIRECT) {
		tunnel->flags = TUNNEL_RTS;
		tunnel->rts |= (sender->flags & INTERFACE_PINNED ? RTS_PINNED : 0) |
			       (sent == HANDED_TO_BOUNCER ? RTS_DIVIDED : 0);
		if (tunnel->label && !may_ask_for_labels(&egress->packet->to))
			tunnel->label = 0;
		copy_address(&tunnel->origin, &egress->local->address);
	}
	tunnel->mtu = endpoint_mtu(hop, ipv6, sender->label);
	if (!fits_path(tunnel, hop, ipv6))
		return EXCEEDS_MTU;
	*tx_ifindex = egress->local->tx_ifindex;
	if (ipv6 && !omits_checksum(egress->local, hop)) {
		take_inner(sent_frame(ctx, egress), frame_end(ctx), tunnel->length, egress->packet, egress->transport,
			   &inner);
		if (HAS_GSO && inner.unread)
			take_unfinished(sent_frame(ctx, egress), frame_end(ctx), egress->packet, egress->transport,
					&inner);
	}
	return send(ctx, egress->local, tunnel, hop, &inner, may_need_offloads(egress), sent);
}

/* Sends or delivers a frame whose route was looked up; a tail call that succeeds does not return. */
static __always_inline enum outcome follow_route(context *ctx, const struct interface *sender, struct egress *egress,
						 enum outcome outcome, __u32 *tx_ifindex)
{
	if (outcome == DELIVERED_SAME_HOST)
		outcome = call_same_host(ctx, egress->state, egress->receiver);
	if (leaves_by_tunnel(outcome))
		outcome = forgotten(send_out(ctx, sender, egress, outcome, tx_ifindex));
	if (outcome < FIRST_DROPPED) /* most frames take this return */
		return outcome;
	return needs_icmp_error(outcome) ? call_errors(ctx, egress->state, outcome) : outcome;
}

/* Runs the functions for what this endpoint sends; entry/resumed.h continues behind them. */
static __always_inline enum outcome run_functions(context *ctx, const struct interface *sender, struct egress *egress)
{
#if STAGES
	__u32 chain = endpoint_chain(sender, source_ifindex(ctx, egress->state), INTERFACE_STAGES_FROM);

	egress->state->flow = egress->flow;
	if (chain)
		return call_chain(ctx, egress->state, STAGE_FROM_ENDPOINT, chain, CONTINUE);
	return call_agent_resume(ctx, egress->state);
#endif
	return NO_PROGRAM;
}

/* From the parsed frame to its last outcome; a tail call that succeeds does not return. */
static __always_inline enum outcome from_endpoint(context *ctx, const struct interface *sender,
						  struct frame_state *state, __u32 *tx_ifindex)
{
	struct egress egress = {};
	enum outcome outcome;

	if (HAS_GSO && state->length > MAX_UDP)
		return TOO_BIG;
	begin_egress(&egress, sender, state);
	outcome = unknown_scalar(route_endpoint_frame(ctx, sender, &egress));
	if (outcome == RESOLVE_REMOTELY)
		outcome = unknown_scalar(route_request(sender, &egress));
	if (STAGES && outcome == RUN_FUNCTIONS)
		outcome = run_functions(ctx, sender, &egress);
	return follow_route(ctx, sender, &egress, outcome, tx_ifindex);
}

/*
 * Identify the sender, parse, check the source, look up the route, rewrite (or call the program that does), count,
 * leave.
 */
static __always_inline int process_endpoint(context *ctx)
{
	__u32 rx_ifindex = ingress_ifindex(ctx), tx_ifindex = rx_ifindex;
	struct interface *sender = find_interface(rx_ifindex);
	struct frame_state *state = new_state(ctx);
	enum outcome outcome = NO_PROGRAM;

	if (!sender)
		return leave(ctx, RECEIVED_FROM_ENDPOINT, UNKNOWN_INTERFACE, amount_of(ctx, state), rx_ifindex);
	if (state)
		outcome = observe_end(ctx, state, from_endpoint(ctx, sender, state, &tx_ifindex));
	return leave_endpoint(ctx, rx_ifindex, outcome, amount_of(ctx, state), tx_ifindex);
}

#endif
