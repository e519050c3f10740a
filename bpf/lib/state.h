/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The state of the frame that this CPU processes: struct frame_state. It is in a map and not on the stack, so that it
 * survives a tail call, and so that the verifier, which does not track values in maps, checks code only once.
 */
#ifndef DROPLET_STATE_H
#define DROPLET_STATE_H

#include "lib/metrics.h"
#include "lib/verifier.h"
#include "maps.h"
#include "outcomes.h"
#include "structs.h"

#define CLEARED_OF_TUNNEL (__builtin_offsetof(struct tunnel, longest) - __builtin_offsetof(struct tunnel, headers))

/*
 * For an entry program. Never NULL, but the verifier requires the check. Clears only what may be read before it is
 * written; structs.h explains why the rest is safe.
 */
static __always_inline struct frame_state *new_state(context *ctx)
{
	__u32 only = 0;
	struct frame_state *state = frame_states.lookup(&only);

	if (!state)
		return 0;
	state->packet.length = 0;
	state->packet.kind = 0;
	__builtin_memset(&state->tunnel.headers, 0, CLEARED_OF_TUNNEL);
	state->called = 0;
	if (STAGES)
		state->sent = 0;
	state->length = frame_length(ctx);
	if (HAS_GSO)
		state->packets = frame_packets(ctx);
	return state;
}

/* For a called program: the state that its caller left, once. NULL if the caller named another program, or none. */
static __always_inline struct frame_state *called_state(__u32 slot)
{
	__u32 only = 0;
	struct frame_state *state = frame_states.lookup(&only);

	if (!state || state->called != slot + 1)
		return 0;
	state->called = 0;
	return state;
}

/* What the frame adds to counters, as it was received; without a state, as it is. */
static __always_inline struct amount amount_of(context *ctx, const struct frame_state *state)
{
	struct amount amount = {1, state ? state->length : frame_length(ctx)};

	if (HAS_GSO)
		amount.packets = state ? state->packets : frame_packets(ctx);
	return amount;
}

/* Whether the frame is the answer of a function's process. */
static __always_inline bool is_answer(context *ctx)
{
	return STAGES && ingress_ifindex(ctx) >= PROCESS_IFINDEX;
}

/* Whether a function endpoint sends the frame. */
static __always_inline bool is_sent(const struct frame_state *state)
{
	return STAGES && state->sent;
}

/* The interface on which the frame was received, before a process had it; or the function endpoint that sends it. */
static __always_inline __u32 source_ifindex(context *ctx, const struct frame_state *state)
{
	return state && (is_answer(ctx) || is_sent(state)) ? state->rx_ifindex : ingress_ifindex(ctx);
}

/* As frame_end(), whose field's address clang cannot keep: see inner_frame(). */
static __always_inline void *inner_end(context *ctx)
{
	asm volatile("" : "+r"(ctx));
	return frame_end(ctx);
}

/* The inner frame, behind the outer headers that it still has. */
static __always_inline struct ethhdr *inner_frame(context *ctx, const struct frame_state *state)
{
	asm volatile("" : "+r"(ctx)); /* else clang may compute a field's address and keep it: see hooks/tc.h */
	return frame_start(ctx) + bounded(state->tunnel.headers, MAX_HEADERS);
}

/*
 * Counts a frame as received and under its outcome, and leaves. The last program of a frame does that: an earlier one
 * may not know yet how many packets it stands for.
 */
static __always_inline int leave(context *ctx, enum outcome received, enum outcome outcome, struct amount amount,
				 __u32 ifindex)
{
	count(is_answer(ctx) ? RECEIVED_FROM_FUNCTION : received, amount);
	count(outcome, amount);
	return verdict(outcome, ifindex);
}

/* The bytes of a frame that came from a tunnel and that a function endpoint sends, without the outer headers. */
static __always_inline __u32 inner_bytes(void)
{
	__u32 only = 0;
	struct frame_state *state = frame_states.lookup(&only);

	return state ? state->tunnel.length : 0;
}

/* The same for a frame of an endpoint, which has counters too. */
static __always_inline int leave_endpoint(context *ctx, __u32 rx_ifindex, enum outcome outcome, struct amount amount,
					  __u32 ifindex)
{
	bool tunnelled = STAGES && ingress_ifindex(ctx) < IFINDEX_BASE;
	struct amount inner = {amount.packets, tunnelled ? inner_bytes() : amount.bytes};

	count_sender(slot_of(rx_ifindex), outcome, inner);
	return leave(ctx, tunnelled ? RECEIVED_FROM_UNDERLAY : RECEIVED_FROM_ENDPOINT, outcome, amount, ifindex);
}

/*
 * Follows a tail call and keeps clang from merging two of them into one with a variable slot, which the kernel compiles
 * to an indirect jump, about 20 ns slower. The assembly differs by its constant.
 */
#define KEEP_CALL(slot) asm volatile("" : : "i"(slot))

/*
 * Tail calls; the called program counts the frame. They return only if the slot is empty: NO_PROGRAM. The first one
 * delivers the frame to the local endpoint on the interface `receiver`.
 */
static __always_inline enum outcome call_same_host(context *ctx, struct frame_state *state, __u32 receiver)
{
	state->receiver = receiver;
	state->called = SLOT_SAME_HOST + 1;
	programs.call(ctx, SLOT_SAME_HOST);
	KEEP_CALL(SLOT_SAME_HOST);
	state->called = 0;
	return NO_PROGRAM;
}

/* Continues behind the functions of a stage point. */
static __always_inline enum outcome call_agent_resume(context *ctx, struct frame_state *state)
{
	state->called = SLOT_AGENT_RESUME + 1;
	programs.call(ctx, SLOT_AGENT_RESUME);
	KEEP_CALL(SLOT_AGENT_RESUME);
	state->called = 0;
	return NO_PROGRAM;
}

static __always_inline enum outcome call_transit_resume(context *ctx, struct frame_state *state)
{
	state->called = SLOT_TRANSIT_RESUME + 1;
	programs.call(ctx, SLOT_TRANSIT_RESUME);
	KEEP_CALL(SLOT_TRANSIT_RESUME);
	state->called = 0;
	return NO_PROGRAM;
}

/* Answers the frame's sender with an ICMP error or a TCP reset if one is due. */
static __always_inline enum outcome call_errors(context *ctx, struct frame_state *state, enum outcome reason)
{
	state->reason = reason;
	state->called = SLOT_ERRORS + 1;
	programs.call(ctx, SLOT_ERRORS);
	KEEP_CALL(SLOT_ERRORS);
	state->called = 0;
	return NO_PROGRAM;
}

#endif
