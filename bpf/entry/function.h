/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The program around a user's function, one for each stage point: calls it, counts its verdict and carries it out. The
 * agent appends the function's instructions to the program (agent/datapath/functions/linker.py), which replaces the
 * constants below.
 */
#ifndef DROPLET_FUNCTION_H
#define DROPLET_FUNCTION_H

#include "lib/stages.h"

#if STAGES

#define MAGIC_CALL   0x7fd20001 /* number of a helper that does not exist: a call of the user's function */
#define MAGIC_INDEX  0x5fd20002 /* the function's index in function_counters */
#define MAGIC_CLOSED 0x5fd20003 /* 1: a fault drops the packet */
#define MAGIC_LANE   0x5fd20004 /* entry/process.h: the entry of a pair in the function's XSKMAP */

#define PATCHED(magic)                                                                                                 \
	({                                                                                                             \
		__u64 patched_value;                                                                                   \
		asm volatile("%0 = %1 ll" : "=r"(patched_value) : "i"(magic));                                         \
		(__u32) patched_value;                                                                                 \
	})

#define SAMPLED 1023U /* the time of one frame in so many is measured */

/*
 * Returns a verdict in the lower half, `reason` and `changed` above it, and a bit that says whether struct stage.target
 * was written (agent/datapath/functions/isolation.py).
 */
static __u64 (*user_function)(struct stage *stage, void *start, void *end) = (void *)MAGIC_CALL;

static __always_inline __u8 reason_in(__u64 result)
{
	return result >> 32;
}

static __always_inline bool says_changed(__u64 result)
{
	return result >> 40 & 0xff;
}

static __always_inline bool has_target(__u64 result)
{
	return result >> 48 & 1;
}

/* Counts the frame and leaves. */
static __always_inline int leave_function(context *ctx, const struct frame_state *state, enum outcome outcome,
					  __u32 tx_ifindex)
{
	__u32 rx_ifindex = source_ifindex(ctx, state);

	if (rx_ifindex >= IFINDEX_BASE)
		return leave_endpoint(ctx, rx_ifindex, outcome, amount_of(ctx, state), tx_ifindex);
	return leave(ctx, RECEIVED_FROM_UNDERLAY, outcome, amount_of(ctx, state), tx_ifindex);
}

/* Behind the functions that saw a dropped frame. It was counted before if a process had it, which may keep it. */
static __always_inline int leave_dropped(context *ctx, const struct frame_state *state, enum outcome outcome)
{
	if (state->processed)
		return verdict(outcome, 0);
	return leave_function(ctx, state, outcome, source_ifindex(ctx, state));
}

/* Drops the frame, after those functions have seen it that observe dropped ones. */
static __always_inline int drop_at(context *ctx, struct frame_state *state, enum stage_point point,
				   enum outcome outcome)
{
	if (point == STAGE_DROPPED)
		return leave_dropped(ctx, state, outcome);
	if (outcome >= FIRST_DROPPED) /* not what goes on behind an empty slot */
		outcome = observe_end(ctx, state, outcome);
	return leave_function(ctx, state, outcome, source_ifindex(ctx, state));
}

/* Where the function's packet starts: at the inner frame, except where it sees the outer headers. */
static __always_inline void *packet_start(context *ctx, const struct frame_state *state, enum stage_point point)
{
	if (point == STAGE_FROM_UNDERLAY || point == STAGE_PASSED)
		return frame_start(ctx);
	return frame_start(ctx) + bounded(state->tunnel.headers, MAX_HEADERS);
}

static __always_inline bool is_for_function_endpoint(const struct frame_state *state)
{
	struct interface *receiver = find_interface(state->receiver);

	return receiver && is_function_endpoint(receiver);
}

static __always_inline bool is_valid_verdict(const struct frame_state *state, __u32 verdict, enum stage_point point)
{
	if (point == STAGE_DROPPED)
		return verdict == STAGE_GO_ON;
	if (verdict == STAGE_SEND)
		return point == STAGE_TO_ENDPOINT && is_for_function_endpoint(state);
	if (verdict == STAGE_SEND_TO)
		return point != STAGE_PASSED;
	return verdict == STAGE_GO_ON || verdict == STAGE_DROP || verdict == STAGE_SEND_BACK;
}

static __always_inline bool hands_over(__u32 verdict, enum stage_point point)
{
	return verdict == STAGE_HAND_OVER && point != STAGE_PASSED; /* where no process can be */
}

static __always_inline void count_verdict(struct function_traffic *traffic, __u32 verdict, struct amount amount)
{
	if (verdict == STAGE_GO_ON)
		traffic->went_on += amount.packets;
	else if (verdict == STAGE_DROP)
		traffic->dropped += amount.packets;
	else if (verdict == STAGE_SEND_BACK)
		traffic->sent_back += amount.packets;
	else if (verdict == STAGE_SEND_TO || verdict == STAGE_SEND)
		traffic->sent_to += amount.packets;
	else
		traffic->faults += amount.packets;
}

static __always_inline void count_reason(__u32 index, __u32 reason, __u32 packets)
{
	__u32 at = index * STAGE_REASONS + (reason & (STAGE_REASONS - 1));
	__u64 *count = function_reasons.lookup(&at);

	if (count)
		*count += packets;
}

/* Calls the function, and measures the time of some calls. */
static __always_inline __u64 call_user(context *ctx, struct frame_state *state, enum stage_point point,
				       struct function_traffic *traffic)
{
	void *start = packet_start(ctx, state, point), *end = frame_end(ctx);
	__u64 began, result;

	if (__builtin_expect(traffic->received.packets & SAMPLED, 1))
		return user_function(stage_of(state), start, end);
	began = bpf_ktime_get_ns();
	result = user_function(stage_of(state), start, end);
	traffic->samples++;
	traffic->sampled_ns += bpf_ktime_get_ns() - began;
	return result;
}

/* Behind the last function of a point. */
static __always_inline int resume(context *ctx, struct frame_state *state, enum stage_point point)
{
	enum outcome outcome;

	if (point == STAGE_PASSED && state->sends)
		return leave_function(ctx, state, FUNCTION_SENT_BACK, source_ifindex(ctx, state));
	if (point == STAGE_DROPPED)
		return leave_dropped(ctx, state, state->outcome);
	if (point == STAGE_PASSED)
		return leave_function(ctx, state, state->outcome, source_ifindex(ctx, state));
	outcome = point == STAGE_FROM_ENDPOINT ? call_agent_resume(ctx, state) : call_transit_resume(ctx, state);
	return leave_function(ctx, state, outcome, source_ifindex(ctx, state));
}

static __always_inline int go_on(context *ctx, struct frame_state *state, enum stage_point point)
{
	if (__builtin_expect(state->chain, 1))
		return drop_at(ctx, state, point, call_next(ctx, state, point));
	return resume(ctx, state, point);
}

static __always_inline int send_on(context *ctx, struct frame_state *state, __u64 result, enum stage_point point)
{
	struct stage_address none = {};

	state->sends = result;
	if (!has_target(result))
		stage_of(state)->target = none;
	return resume(ctx, state, point);
}

/* Carries out all verdicts but the most frequent one. */
static __always_inline int carry_out(context *ctx, struct frame_state *state, __u64 result, enum stage_point point,
				     __u32 index)
{
	__u32 verdict = result;

	if (verdict == STAGE_DROP) {
		count_reason(index, reason_in(result), amount_of(ctx, state).packets);
		return drop_at(ctx, state, point, FUNCTION_DROPPED);
	}
	return send_on(ctx, state, result, point);
}

/* One function at one point, which is a constant. */
static __always_inline int process_function(context *ctx, enum stage_point point)
{
	struct frame_state *state = called_state(CALLED_AT(point));
	__u32 index = PATCHED(MAGIC_INDEX), verdict;
	struct function_traffic *traffic = function_counters.lookup(&index);
	__u64 result;
	bool valid;

	if (__builtin_expect(!state || !traffic, 0))
		return leave_function(ctx, state, NO_PROGRAM, 0);
	result = call_user(ctx, state, point, traffic);
	verdict = result;
	add(&traffic->received, amount_of(ctx, state));
	if (says_changed(result))
		state->changed = index + 1;
	if (__builtin_expect(verdict == STAGE_GO_ON, 1)) {
		traffic->went_on += amount_of(ctx, state).packets;
		return go_on(ctx, state, point);
	}
	if (hands_over(verdict, point)) {
		traffic->handed_over += amount_of(ctx, state).packets;
		state->handed = 1;
	} else {
		valid = is_valid_verdict(state, verdict, point);
		count_verdict(traffic, valid ? verdict : 0, amount_of(ctx, state));
		if (valid)
			return carry_out(ctx, state, result, point, index);
		if (PATCHED(MAGIC_CLOSED) && point != STAGE_DROPPED)
			return drop_at(ctx, state, point, FUNCTION_FAULT);
	}
	return go_on(ctx, state, point);
}

#endif
#endif
