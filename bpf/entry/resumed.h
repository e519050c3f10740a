/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Continues with a frame behind the functions of a stage point, by tail call from the last one: as the entry program
 * would have without functions, or as a function's verdict demands. Packets that functions changed are parsed again.
 */
#ifndef DROPLET_RESUMED_H
#define DROPLET_RESUMED_H

#include "entry/from_endpoint.h"
#include "entry/from_underlay.h"
#include "entry/sent.h"
#include "lib/stages.h"

#if STAGES

/* The local endpoint that a function sends a packet to, NULL if there is none. */
static __always_inline struct interface *find_target(struct frame_state *state, __u32 vni, __u32 *ifindex)
{
	struct overlay_key key KEY;
	struct endpoint *endpoint;

	key.vni = vni;
	__builtin_memcpy(&key.address, &stage_of(state)->target, sizeof(key.address));
	endpoint = endpoints.lookup(&key);
	*ifindex = endpoint ? ifindex_of(endpoint) : 0;
	return find_receiver(*ifindex, vni);
}

/* Counts a packet that is unusable against the function that changed it last. */
static __always_inline enum outcome unusable(const struct frame_state *state)
{
	__u32 index = state->changed - 1;
	struct function_traffic *traffic = function_counters.lookup(&index);

	if (traffic)
		traffic->faults += HAS_GSO ? state->packets : 1;
	return FUNCTION_FAULT;
}

/* Parses a packet of an endpoint again, up to its transport header. */
static __always_inline enum outcome parse_again(context *ctx, struct ethhdr *ethernet, void *end,
						const struct interface *sender, struct egress *egress)
{
	enum outcome outcome;

	egress->tunnel->longest = egress->tunnel->length;
	outcome = read_packet(ethernet, end, egress->tunnel->length, sender->vni, egress->packet);
	if (outcome == CONTINUE)
		outcome = find_transport(ethernet, end, egress->packet, egress->transport);
	return outcome == CONTINUE ? set_segments(ctx, ethernet, end, egress->state) : outcome;
}

/*
 * Checks what depends on what a function may have changed. A packet that a function endpoint sends is checked as that
 * of an endpoint with an interface, but for requests for addresses, of which it has no need.
 */
static __always_inline enum outcome check_changed(context *ctx, const struct interface *sender, struct egress *egress)
{
	struct ethhdr *ethernet = inner_frame(ctx, egress->state);
	__u32 slot = slot_of(source_ifindex(ctx, egress->state));
	bool sends = egress->state->sends == STAGE_SEND;
	void *end = inner_end(ctx);
	enum outcome outcome;

	if ((void *)(ethernet + 1) > end)
		return FUNCTION_FAULT;
	if (sends && !same_mac(ethernet->h_source, sender->mac))
		return SOURCE_MAC;
	outcome = unknown_scalar(parse_again(ctx, ethernet, end, sender, egress));
	if (sends)
		return outcome == CONTINUE ? check_sent(ethernet, end, sender, egress, slot) : outcome;
	if (outcome == CONTINUE)
		outcome = hash_flow(ethernet, end, slot, egress->packet, egress->transport, &egress->flow);
	if (outcome != CONTINUE || is_group_mac(ethernet->h_dest) || is_multicast_packet(egress->packet))
		return unusable(egress->state);
	if (INNER_IPV6 && egress->packet->kind == ETH_P_IPV6 && is_link_local(&egress->packet->to.address))
		return unusable(egress->state);
	egress->tunnel->tos = (egress->tunnel->tos & ~ECN_MASK) | (egress->packet->tos & ECN_MASK);
	return fits_mtu(sender->mtu, egress->tunnel) ? CONTINUE : EXCEEDS_MTU;
}

/* RUN_FUNCTIONS for a packet that a function endpoint sends, if functions may have to see it first. */
static __always_inline enum outcome route_resumed(context *ctx, const struct interface *sender, struct egress *egress)
{
	bool sends = egress->state->sends == STAGE_SEND;
	enum outcome outcome = CONTINUE;
	struct ethhdr *ethernet;
	void *end;

	if (egress->state->changed || sends)
		outcome = unknown_scalar(check_changed(ctx, sender, egress));
	if (outcome != CONTINUE)
		return outcome;
	if (sends && sender->flags & INTERFACE_STAGES_FROM)
		return RUN_FUNCTIONS;
	ethernet = inner_frame(ctx, egress->state);
	end = inner_end(ctx);
	if ((void *)(ethernet + 1) > end || !has_ip_header(ethernet, end, egress->packet))
		return FUNCTION_FAULT;
	return route_packet(ethernet, end, sender, egress);
}

/*
 * The chain for what the local endpoint receives that a function chose. None behind to_endpoint: a function for several
 * endpoints, which sends their packets to one of them, would meet its own. A function endpoint has nothing but its
 * functions; those that send a packet round and round come to an end with the tail calls.
 */
static __always_inline __u32 chain_of_target(const struct interface *target, const struct frame_state *state,
					     __u32 ifindex)
{
	__u32 outcome = state->outcome;

	if (is_function_endpoint(target))
		return endpoint_chain(target, ifindex, INTERFACE_STAGES_TO);
	if (outcome == DELIVERED || outcome == DELIVERED_SAME_HOST || outcome == FUNCTION_DELIVERED)
		return 0;
	return endpoint_chain(target, ifindex, INTERFACE_STAGES_TO);
}

/* Runs that chain. */
static __always_inline enum outcome call_to_target(context *ctx, struct frame_state *state,
						   const struct interface *target, __u32 chain, __u32 ifindex)
{
	state->receiver = ifindex;
	return call_to_endpoint(ctx, state, target, chain, FUNCTION_DELIVERED);
}

/* To a local endpoint that a function chose, for a frame of an endpoint. */
static __always_inline enum outcome send_to_target(context *ctx, struct frame_state *state, __u32 vni,
						   __u32 *tx_ifindex)
{
	__u32 ifindex, chain;
	struct interface *target = find_target(state, vni, &ifindex);

	if (!target || !fits_mtu(target->mtu, &state->tunnel))
		return FUNCTION_TARGET;
	*tx_ifindex = ifindex;
	chain = chain_of_target(target, state, ifindex);
	if (chain)
		return call_to_target(ctx, state, target, chain, ifindex);
	return deliver_sent(ctx, state, target, ifindex, FUNCTION_DELIVERED);
}

static __always_inline enum outcome resume_endpoint(context *ctx, const struct interface *sender,
						    struct frame_state *state, __u32 *tx_ifindex)
{
	struct egress egress = {};
	enum outcome outcome;

	if (state->sends == STAGE_SEND_BACK)
		return sent_back(state);
	if (state->sends == STAGE_SEND_TO)
		return send_to_target(ctx, state, sender->vni, tx_ifindex);
	set_egress(&egress, sender, state);
	egress.flow = state->flow;
	outcome = unknown_scalar(route_resumed(ctx, sender, &egress));
	if (outcome == RUN_FUNCTIONS) {
		state->sends = state->changed = 0;
		outcome = run_functions(ctx, sender, &egress);
	}
	if (is_sent(state))
		outcome = forgotten(follow_sent(ctx, &egress, outcome));
	return follow_route(ctx, sender, &egress, outcome, tx_ifindex);
}

/* Agent resume: behind the functions at from_endpoint. */
static __always_inline int process_resumed_endpoint(context *ctx)
{
	struct frame_state *state = called_state(SLOT_AGENT_RESUME);
	__u32 rx_ifindex = source_ifindex(ctx, state), tx_ifindex = rx_ifindex;
	struct interface *sender = find_interface(rx_ifindex);
	enum outcome outcome = UNKNOWN_INTERFACE; /* closed: the endpoint is being removed */

	if (sender && !state)
		outcome = NO_PROGRAM;
	if (sender && state)
		outcome = observe_end(ctx, state, resume_endpoint(ctx, sender, state, &tx_ifindex));
	return leave_endpoint(ctx, rx_ifindex, outcome, amount_of(ctx, state), tx_ifindex);
}

/*
 * Parses the inner packet again. What the outer headers said stays as it is, also if a function wrote to them: whose
 * packet it is was checked before.
 */
static __always_inline enum outcome parse_changed(context *ctx, struct frame_state *state, bool *on_path)
{
	enum outcome outcome;

	state->packet.kind = 0;
	state->packet.length = 0;
	outcome = unknown_scalar(parse_inner(ctx, state));
	if (outcome == CONTINUE && !state->tunnel.flags)
		*on_path = recently_confirmed(&state->packet.from, &state->tunnel.peer.address, &state->tunnel);
	return outcome == CONTINUE || outcome == INNER_PROTOCOL ? outcome : unusable(state);
}

/* Carries out a verdict other than go on, for a packet from a tunnel. */
static __always_inline enum outcome send_as_told(context *ctx, struct local_droplet *local, struct frame_state *state,
						 __u32 *tx_ifindex)
{
	struct tunnel *tunnel = &state->tunnel;
	struct interface *target;
	enum outcome outcome;
	__u32 ifindex, chain;
	__u8 ttl;

	if (state->sends == STAGE_SEND_TO) {
		target = find_target(state, tunnel->vni, &ifindex);
		if (!target || !fits_mtu(target->mtu, tunnel))
			return FUNCTION_TARGET;
		*tx_ifindex = ifindex;
		chain = chain_of_target(target, state, ifindex);
		if (chain)
			return call_to_target(ctx, state, target, chain, ifindex);
		return deliver(ctx, state, target, ifindex, FUNCTION_DELIVERED);
	}
	/* From hop to hop, and not anew: functions of two droplets could send a packet back to each other for ever. */
	ttl = tunnel->ttl;
	if (ttl <= 1)
		return OUTER_TTL;
	outcome = reply_to_origin(local, tunnel, FUNCTION_SENT_BACK_REMOTE);
	tunnel->ttl = ttl - 1;
	if (!leaves_by_tunnel(outcome))
		return outcome;
	return send_through_tunnel(ctx, local, tunnel, &state->packet, &state->transport, outcome, tx_ifindex);
}

static __always_inline enum outcome resume_tunnel(context *ctx, struct frame_state *state, __u32 *tx_ifindex)
{
	__u32 index = state->local;
	struct local_droplet *local = local_droplets.lookup(&index);
	enum outcome outcome = state->outcome;
	bool on_path = state->on_path;
	struct interface *receiver;

	if (!local || !local->interface) /* closed: it was just removed */
		return NO_LOCAL_DROPLET;
	if (state->processed && outcome != CONTINUE && outcome != INNER_PROTOCOL) {
		if (unknown_scalar(parse_changed(ctx, state, &on_path)) == FUNCTION_FAULT)
			return FUNCTION_FAULT;
	}
	if (state->sends)
		return send_as_told(ctx, local, state, tx_ifindex);
	if (outcome == CONTINUE || outcome == INNER_PROTOCOL) { /* from_underlay */
		if (state->changed)
			outcome = unknown_scalar(parse_changed(ctx, state, &on_path));
		if (outcome == CONTINUE || outcome == INNER_PROTOCOL)
			outcome = forgotten(route_inner_frame(ctx, local, state, outcome, on_path, tx_ifindex));
		return deliver_or_forward(ctx, local, state, outcome, tx_ifindex);
	}
	if (outcome == DELIVERED || outcome == FUNCTION_DELIVERED) { /* to_endpoint */
		*tx_ifindex = state->receiver;
		receiver = find_receiver(*tx_ifindex, state->tunnel.vni);
		if (receiver && state->processed && !fits_mtu(receiver->mtu, &state->tunnel))
			return TOO_BIG;
		return receiver ? deliver(ctx, state, receiver, *tx_ifindex, outcome) : ENDPOINT_NOT_LOCAL;
	}
	if (!leaves_by_tunnel(outcome))
		return NO_PROGRAM;
	return send_through_tunnel(ctx, local, &state->tunnel, &state->packet, &state->transport, outcome, tx_ifindex);
}

static __always_inline enum outcome resume_same_host(context *ctx, const struct interface *sender,
						     struct frame_state *state, __u32 *tx_ifindex)
{
	struct interface *receiver;

	if (state->sends == STAGE_SEND_BACK)
		return sent_back(state);
	if (state->sends == STAGE_SEND_TO)
		return send_to_target(ctx, state, sender->vni, tx_ifindex);
	*tx_ifindex = state->receiver;
	receiver = find_receiver(*tx_ifindex, sender->vni);
	if (!receiver) /* closed: it was just removed or has moved */
		return ENDPOINT_NOT_LOCAL;
	if (state->processed && !fits_mtu(receiver->mtu, &state->tunnel))
		return TOO_BIG;
	return deliver_sent(ctx, state, receiver, *tx_ifindex, state->outcome);
}

/* Transit resume: behind the functions at to_endpoint, forwarded and from_underlay. */
static __always_inline int process_resumed(context *ctx)
{
	struct frame_state *state = called_state(SLOT_TRANSIT_RESUME);
	__u32 rx_ifindex = source_ifindex(ctx, state), tx_ifindex = rx_ifindex;
	struct interface *sender = find_interface(rx_ifindex);
	enum outcome outcome = NO_PROGRAM;

	if (state && state->sends == STAGE_SEND)
		return process_sending(ctx, state);
	if (rx_ifindex >= IFINDEX_BASE) {
		if (sender && state && state->sends == SENDS_SAME_HOST)
			outcome = deliver_to_same_host(ctx, sender, state, &tx_ifindex);
		else if (sender && state)
			outcome = resume_same_host(ctx, sender, state, &tx_ifindex);
		outcome = observe_end(ctx, state, outcome);
		return leave_endpoint(ctx, rx_ifindex, outcome, amount_of(ctx, state), tx_ifindex);
	}
	if (state) {
		outcome = resume_tunnel(ctx, state, &tx_ifindex);
		if (needs_icmp_error(outcome))
			outcome = call_errors(ctx, state, outcome);
		outcome = observe_end(ctx, state, outcome);
	}
	return leave(ctx, RECEIVED_FROM_UNDERLAY, outcome, amount_of(ctx, state), tx_ifindex);
}

#endif
#endif
