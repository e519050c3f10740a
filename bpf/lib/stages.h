/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Stage points: where users' functions run. The caller at a point leaves what it knows in struct frame_state and calls
 * the first function of the chain; entry/function.h is the program around each function, which calls the next one, and
 * behind the last one entry/resumed.h. Without STAGES nothing of this is compiled.
 */
#ifndef DROPLET_STAGES_H
#define DROPLET_STAGES_H

#include "lib/endpoint.h"
#include "lib/state.h"
#include "maps.h"
#include "stage.h"

#if STAGES

#define CALLED_AT(point) (SLOTS + (point)) /* frame_state.called - 1 for the functions of a point */

/* Whether a chain has the function with this index, and what is `behind` it. */
static __always_inline bool find_function(__u32 chain, __u32 index, __u32 *behind)
{
	for (int i = 0; i < STAGE_SLOTS; i++) {
		__u32 slot = chain & CHAIN_MASK;

		chain >>= CHAIN_BITS;
		if (slot == index % STAGE_SLOTS + 1) {
			*behind = chain;
			return true;
		}
	}
	return false;
}

/* Whether a chain ends with those functions; every chain ends with none. */
static __always_inline bool ends_with(__u32 chain, __u32 rest)
{
	for (int i = 0; i < STAGE_SLOTS; i++, chain >>= CHAIN_BITS)
		if (chain == rest)
			return true;
	return !rest;
}

/* `slot` is a constant: its index in stage_programs. */
static __always_inline void call_slot(context *ctx, __u32 slot)
{
	stage_programs.call(ctx, slot);
}

#define CALL_FUNCTION(number)                                                                                          \
	case number + 1:                                                                                               \
		call_slot(ctx, ((point) - 1) * STAGE_SLOTS + number);                                                  \
		KEEP_CALL(((point) - 1) * STAGE_SLOTS + number);                                                       \
		break

static __always_inline struct host_stages *stages_of_host(void)
{
	__u32 only = 0;

	return host_stages.lookup(&only);
}

/* Whether a packet goes on at an empty slot, whose function cannot be called: if that is open, or only observes. */
static __always_inline bool passes_over(enum stage_point point, __u32 slot)
{
	struct host_stages *host = stages_of_host();
	__u32 index = (point - 1) * STAGE_SLOTS + slot;

	return point == STAGE_DROPPED || (host && host->open >> (index & 63) & 1);
}

/* Behind the last slot of a chain, which is empty. */
static __always_inline enum outcome continue_behind(context *ctx, struct frame_state *state, enum stage_point point)
{
	if (point == STAGE_PASSED || point == STAGE_DROPPED)
		return state->outcome;
	return point == STAGE_FROM_ENDPOINT ? call_agent_resume(ctx, state) : call_transit_resume(ctx, state);
}

/*
 * At the empty slot `next` - 1: calls the next function behind it, if the packet may pass over it. Returns as
 * call_next(). The slots are no constants here: a slower call, which does not matter, and far less for the verifier to
 * follow.
 */
static __always_inline enum outcome pass_over(context *ctx, struct frame_state *state, const enum stage_point point,
					      __u32 next)
{
	__u32 i;

#pragma clang loop unroll(disable)
	for (i = 0; i < STAGE_SLOTS; i++) {
		if (!passes_over(point, next - 1))
			return NO_PROGRAM;
		next = state->chain & CHAIN_MASK;
		if (!next)
			return continue_behind(ctx, state, point);
		state->chain >>= CHAIN_BITS;
		state->called = CALLED_AT(point) + 1;
		stage_programs.call(ctx, (point - 1) * STAGE_SLOTS + next - 1);
		state->called = 0;
	}
	return NO_PROGRAM;
}

/*
 * Calls the next function of state->chain, which is not empty. Returns only if its slot is empty, and all behind it
 * are: NO_PROGRAM if one of them is closed, else what the packet ends as. `point` is a constant, and so are the slots,
 * as for the other tail calls.
 */
static __always_inline enum outcome call_next(context *ctx, struct frame_state *state, const enum stage_point point)
{
	__u32 next = state->chain & CHAIN_MASK;

	state->chain >>= CHAIN_BITS;
	state->called = CALLED_AT(point) + 1;
	switch (next) {
		CALL_FUNCTION(0);
		CALL_FUNCTION(1);
		CALL_FUNCTION(2);
		CALL_FUNCTION(3);
		CALL_FUNCTION(4);
		CALL_FUNCTION(5);
		CALL_FUNCTION(6);
		CALL_FUNCTION(7);
	}
	state->called = 0;
	return pass_over(ctx, state, point, next);
}

/*
 * struct stage of the frame: its fields, behind the pointers, are in frame_state.stage. They are written once for a
 * chain, in words of 8 bytes as they are read; each function gets a copy of what it uses
 * (agent/datapath/functions/isolation.py).
 */
static __always_inline struct stage *stage_of(struct frame_state *state)
{
	return (void *)state->stage - __builtin_offsetof(struct stage, peer);
}

static __always_inline __u64 pair(__u32 first, __u32 second)
{
	return first | (__u64)second << 32;
}

/* The VPC of a frame as far as it was parsed; 0 if it is unknown. */
static __always_inline __u32 known_vni(context *ctx, const struct frame_state *state)
{
	struct interface *sender = find_interface(source_ifindex(ctx, state));

	if (sender)
		return sender->vni;
	return is_answer(ctx) || state->tunnel.headers ? state->tunnel.vni : 0;
}

/* The flags, protocol and offset of the transport header as struct stage has them. */
static __always_inline __u32 transport_flags(const struct frame_state *state)
{
	const struct transport *transport = &state->transport;
	__u32 flags = HAS_GSO ? STAGE_UNFINISHED : 0;

	if (!state->packet.kind || !transport->parsed)
		return flags | STAGE_NO_PORTS;
	if (transport->fragment)
		flags |= STAGE_FRAGMENT;
	return transport->later ? flags | STAGE_NO_PORTS : flags;
}

/* The label of a frame's sender as far as it was parsed; 0 if it has none. `rx_ifindex`: where it was received. */
static __always_inline __u32 known_label(context *ctx, const struct frame_state *state, __u32 rx_ifindex)
{
	struct interface *sender;

	if (rx_ifindex < IFINDEX_BASE)
		return is_answer(ctx) || state->tunnel.headers ? state->tunnel.label : 0;
	sender = find_interface(rx_ifindex);
	return sender ? sender->label : 0;
}

/*
 * At to_endpoint it shows only if the receiver's network asks: what other hosts send for a moment longer, or because
 * they do not know that network, must not differ from what endpoints of this host send.
 */
static __always_inline __u32 shown_label(context *ctx, const struct frame_state *state, __u32 rx_ifindex,
					 enum stage_point point)
{
	__u32 label = point == STAGE_PASSED ? 0 : known_label(ctx, state, rx_ifindex);
	struct interface *receiver;

	if (!label || point != STAGE_TO_ENDPOINT)
		return label;
	receiver = find_interface(state->receiver);
	return receiver && receiver->flags & INTERFACE_LABELS ? label : 0;
}

static __always_inline void describe(context *ctx, struct frame_state *state, enum stage_point point)
{
	volatile __u64 *word = state->stage;
	const __u64 *peer = (const __u64 *)&state->tunnel.peer.address;
	__u32 rx_ifindex = source_ifindex(ctx, state), flags = transport_flags(state);
	bool ingress = rx_ifindex < IFINDEX_BASE, parsed = state->packet.kind && state->transport.parsed;
	bool known = ingress && state->tunnel.headers && point != STAGE_PASSED;
	__u32 receiver = point == STAGE_TO_ENDPOINT ? slot_of(state->receiver) : STAGE_NO_ENDPOINT;

	word[0] = known ? peer[0] : 0;
	word[1] = known ? peer[1] : 0;
	word[2] = pair(point == STAGE_PASSED ? 0 : known_vni(ctx, state), state->length);
	word[3] = pair(HAS_GSO ? state->packets : 1, ingress ? STAGE_NO_ENDPOINT : slot_of(rx_ifindex));
	word[4] = pair(receiver, shown_label(ctx, state, rx_ifindex, point));
	word[5] = pair((point == STAGE_FROM_UNDERLAY ? state->tunnel.headers : 0) |
			       (parsed ? state->transport.offset << 16 : 0),
		       state->packet.kind | (point == STAGE_DROPPED ? state->outcome << 16 : 0));
	word[6] = (parsed ? state->transport.protocol : 0) | point << 8 |
		  (ingress ? STAGE_INGRESS : STAGE_EGRESS) << 16 | flags << 24;
}

/* Runs a chain that is not empty. `outcome`: that of the frame so far, with which it continues. */
static __always_inline enum outcome call_chain(context *ctx, struct frame_state *state, enum stage_point point,
					       __u32 chain, enum outcome outcome)
{
	state->chain = chain;
	state->outcome = outcome;
	state->changed = 0;
	state->sends = 0;
	state->processed = 0;
	state->handed = 0;
	describe(ctx, state, point);
	return call_next(ctx, state, point);
}

/* The chain for what a local endpoint sends or receives, 0 if there is none. */
static __always_inline __u32 endpoint_chain(const struct interface *endpoint, __u32 ifindex, __u32 flag)
{
	__u32 slot = slot_of(ifindex);
	struct endpoint_stages *stages;

	if (!(endpoint->flags & flag))
		return 0;
	stages = endpoint_stages.lookup(&slot);
	if (!stages) /* open: the maps have different sizes */
		return 0;
	return flag == INTERFACE_STAGES_FROM ? stages->from_endpoint : stages->to_endpoint;
}

/*
 * Runs the functions for what a local endpoint receives, state->receiver. Those of a function endpoint get the frame
 * as an interface would: with the Ethernet addresses that a delivery sets.
 */
static __always_inline enum outcome call_to_endpoint(context *ctx, struct frame_state *state,
						     const struct interface *receiver, __u32 chain,
						     enum outcome outcome)
{
	struct ethhdr *ethernet = inner_frame(ctx, state);

	if (is_function_endpoint(receiver) && (void *)(ethernet + 1) <= inner_end(ctx))
		rewrite_ethernet(ethernet, receiver);
	return call_chain(ctx, state, STAGE_TO_ENDPOINT, chain, outcome);
}

/* The chains of a VPC's packets, NULL if it has none. */
static __always_inline struct vpc_stages *stages_of_vpc(const struct host_stages *host, __u32 vni)
{
	return host && host->vnis >> (vni & 63) & 1 ? vpc_stages.lookup(&vni) : 0;
}

static __always_inline __u32 underlay_chain(__u32 vni)
{
	struct vpc_stages *vpc = stages_of_vpc(stages_of_host(), vni);

	return vpc ? vpc->from_underlay : 0;
}

/* `outcome` is one of those that leave by a tunnel. */
static __always_inline __u32 forwarded_chain(__u32 vni, enum outcome outcome)
{
	struct vpc_stages *vpc;

	if (outcome != BOUNCED && outcome != HANDED_TO_BOUNCER && outcome != HANDED_TO_DIVIDER && outcome != REROUTED)
		return 0;
	vpc = stages_of_vpc(stages_of_host(), vni);
	return vpc ? vpc->forwarded : 0;
}

/* `vni` is 0 if the frame is of no VPC, or of an unknown one. */
static __always_inline __u32 dropped_chain(__u32 vni)
{
	struct host_stages *host = stages_of_host();
	struct vpc_stages *vpc = stages_of_vpc(host, vni);

	if (vpc)
		return vpc->dropped;
	return host ? host->dropped : 0;
}

#endif

/*
 * Before a frame leaves: runs the functions for those that pass or are dropped. A tail call that succeeds does not
 * return; the last function counts the frame.
 */
static __always_inline enum outcome observe_end(context *ctx, struct frame_state *state, enum outcome outcome)
{
#if STAGES
	struct host_stages *host;
	__u32 chain = 0;

	if (!state)
		return outcome;
	if (outcome >= FIRST_DROPPED) {
		chain = dropped_chain(known_vni(ctx, state));
		return chain ? call_chain(ctx, state, STAGE_DROPPED, chain, outcome) : outcome;
	}
	if (outcome == PASSED) {
		host = stages_of_host();
		chain = host ? host->passed : 0;
		return chain ? call_chain(ctx, state, STAGE_PASSED, chain, outcome) : outcome;
	}
#endif
	return outcome;
}

#endif
