/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Packets that function endpoints send (STAGE_SEND). Transit resume marks the frame as one that the endpoint sends, and
 * calls agent resume, which checks and routes it; for a receiver on this host that calls transit resume again.
 */
#ifndef DROPLET_SENT_H
#define DROPLET_SENT_H

#include "entry/from_endpoint.h"
#include "entry/from_underlay.h"
#include "lib/stages.h"

#if STAGES

/* frame_state.sends, which is not a verdict: to an endpoint of this host, from agent resume to transit resume. */
#define SENDS_SAME_HOST 255

/*
 * Checks a packet that a function endpoint sends, as check_packet() does. Its time to live is one less than that of the
 * packet that the functions got: two function endpoints could send a packet to each other for ever.
 */
static __always_inline enum outcome check_sent(struct ethhdr *ethernet, void *end, const struct interface *sender,
					       struct egress *egress, __u32 slot)
{
	enum outcome outcome;

	if (!has_ip_header(ethernet, end, egress->packet))
		return MALFORMED_INNER;
	if (INNER_IPV6 && egress->packet->kind == ETH_P_IPV6) {
		if (may_hide_nd(ethernet, end, egress->packet, egress->transport))
			return MALFORMED_INNER;
		if (is_nd(ethernet, end, egress->transport))
			return ND_TYPE;
	}
	outcome = check_packet(ethernet, end, slot, sender, egress);
	if (outcome != CONTINUE)
		return outcome;
	if (decrement_ttl(ethernet, egress->packet) != CONTINUE)
		return INNER_TTL;
	egress->packet->ttl--;
	return CONTINUE;
}

/* Delivers a frame of an endpoint to another one of this host. */
static __always_inline enum outcome deliver_sent(context *ctx, struct frame_state *state,
						 const struct interface *receiver, __u32 ifindex,
						 enum outcome delivered)
{
	if (state->tunnel.headers)
		return deliver(ctx, state, receiver, ifindex, delivered);
	return hand_over(ctx, receiver, state, ifindex, delivered);
}

/* To the endpoint that sent it, of which a function endpoint has no interface. */
static __always_inline enum outcome sent_back(const struct frame_state *state)
{
	return is_sent(state) ? NO_FUNCTION : FUNCTION_SENT_BACK;
}

/* Delivers a packet that a function endpoint sends to another endpoint of this host, after that one's functions. */
static __always_inline enum outcome call_sent_same_host(context *ctx, struct frame_state *state, __u32 ifindex)
{
	state->receiver = ifindex;
	state->sends = SENDS_SAME_HOST;
	return call_transit_resume(ctx, state);
}

/* Follows the route of a packet that a function endpoint sends. No answer to it can reach that endpoint. */
static __always_inline enum outcome follow_sent(context *ctx, struct egress *egress, enum outcome outcome)
{
	if (outcome == DELIVERED_SAME_HOST)
		return call_sent_same_host(ctx, egress->state, egress->receiver);
	if (outcome >= FIRST_ANSWERED && outcome < FIRST_FORWARDED)
		return TO_GATEWAY;
	return outcome;
}

/*
 * A function endpoint has the packet, and sends one. Its counters and those of the endpoint that it came from say so;
 * for the host it is one packet, with the outcome of what is sent.
 */
static __always_inline void begin_sending(context *ctx, struct frame_state *state)
{
	__u32 rx_ifindex = source_ifindex(ctx, state);
	struct amount amount = amount_of(ctx, state);

	if (rx_ifindex >= IFINDEX_BASE)
		count_sender(slot_of(rx_ifindex), state->outcome, amount);
	amount.bytes = state->tunnel.length;
	count_delivered(slot_of(state->receiver), amount);
	state->sent = 1;
	state->rx_ifindex = state->receiver;
	state->tunnel.flags = state->tunnel.rts = state->tunnel.bounces = state->tunnel.attempt = 0;
}

/* STAGE_SEND: on to agent resume, which knows all of what an endpoint sends. */
static __always_inline int process_sending(context *ctx, struct frame_state *state)
{
	enum outcome outcome;

	begin_sending(ctx, state);
	outcome = observe_end(ctx, state, call_agent_resume(ctx, state));
	return leave_endpoint(ctx, state->rx_ifindex, outcome, amount_of(ctx, state), 0);
}

/* From agent resume: delivers a packet that a function endpoint sends to another endpoint of this host. */
static __always_inline enum outcome deliver_to_same_host(context *ctx, const struct interface *sender,
							 struct frame_state *state, __u32 *tx_ifindex)
{
	__u32 ifindex = state->receiver, chain;
	struct interface *receiver = find_receiver(ifindex, sender->vni);

	if (!receiver) /* closed: it was just removed or has moved */
		return ENDPOINT_NOT_LOCAL;
	*tx_ifindex = ifindex;
	chain = endpoint_chain(receiver, ifindex, INTERFACE_STAGES_TO);
	if (chain)
		return call_to_endpoint(ctx, state, receiver, chain, DELIVERED_SAME_HOST);
	return deliver_sent(ctx, state, receiver, ifindex, DELIVERED_SAME_HOST);
}

#endif
#endif
