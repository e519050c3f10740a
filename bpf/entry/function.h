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

struct function_configuration {
	__u8 bytes[STAGE_CONFIGURATION_SIZE];
};

/* Each function has its own; the linker puts it in the place of this one. */
BPF_TABLE("array", __u32, struct function_configuration, function_configuration, 1);

static int (*user_function)(struct stage *stage, void *start, void *end, void *configuration) = (void *)MAGIC_CALL;

/* Counts the frame and leaves. */
static __always_inline int leave_function(context *ctx, const struct frame_state *state, enum outcome outcome,
					  __u32 tx_ifindex)
{
	__u32 rx_ifindex = source_ifindex(ctx, state);

	if (rx_ifindex >= IFINDEX_BASE)
		return leave_endpoint(ctx, rx_ifindex, outcome, amount_of(ctx, state), tx_ifindex);
	return leave(ctx, RECEIVED_FROM_UNDERLAY, outcome, amount_of(ctx, state), tx_ifindex);
}

/* Drops the frame, after those functions have seen it that observe dropped ones. */
static __always_inline int drop_at(context *ctx, struct frame_state *state, enum stage_point point,
				   enum outcome outcome)
{
	if (point != STAGE_DROPPED && outcome >= FIRST_DROPPED) /* not what goes on behind an empty slot */
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

static __always_inline bool is_valid_verdict(__u32 verdict, enum stage_point point)
{
	if (point == STAGE_DROPPED)
		return verdict == STAGE_GO_ON;
	if (verdict == STAGE_SEND_TO)
		return point != STAGE_PASSED;
	return verdict == STAGE_GO_ON || verdict == STAGE_DROP || verdict == STAGE_SEND_BACK;
}

static __always_inline void count_verdict(struct function_traffic *traffic, __u32 verdict, struct amount amount)
{
	if (verdict == STAGE_GO_ON)
		traffic->went_on += amount.packets;
	else if (verdict == STAGE_DROP)
		traffic->dropped += amount.packets;
	else if (verdict == STAGE_SEND_BACK)
		traffic->sent_back += amount.packets;
	else if (verdict == STAGE_SEND_TO)
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
static __always_inline __u32 call_user(context *ctx, struct frame_state *state, enum stage_point point,
				       struct function_configuration *configuration, struct function_traffic *traffic)
{
	bool sampled = !(traffic->received.packets & SAMPLED);
	__u64 began = sampled ? bpf_ktime_get_ns() : 0;
	__u32 verdict = user_function(stage_of(state), packet_start(ctx, state, point), frame_end(ctx), configuration);

	if (sampled) {
		traffic->samples++;
		traffic->sampled_ns += bpf_ktime_get_ns() - began;
	}
	return verdict;
}

/* Behind the last function of a point. */
static __always_inline int resume(context *ctx, struct frame_state *state, enum stage_point point)
{
	enum outcome outcome;

	if (point == STAGE_PASSED && state->sends)
		return leave_function(ctx, state, FUNCTION_SENT_BACK, source_ifindex(ctx, state));
	if (point == STAGE_PASSED || point == STAGE_DROPPED)
		return leave_function(ctx, state, state->outcome, source_ifindex(ctx, state));
	outcome = point == STAGE_FROM_ENDPOINT ? call_agent_resume(ctx, state) : call_transit_resume(ctx, state);
	return leave_function(ctx, state, outcome, source_ifindex(ctx, state));
}

static __always_inline int carry_out(context *ctx, struct frame_state *state, __u32 verdict, enum stage_point point)
{
	if (verdict == STAGE_SEND_BACK || verdict == STAGE_SEND_TO) {
		state->sends = verdict;
		return resume(ctx, state, point);
	}
	if (state->chain)
		return drop_at(ctx, state, point, call_next(ctx, state, point));
	return resume(ctx, state, point);
}

/* One function at one point, which is a constant. */
static __always_inline int process_function(context *ctx, enum stage_point point)
{
	struct frame_state *state = called_state(CALLED_AT(point));
	__u32 index = PATCHED(MAGIC_INDEX), only = 0, verdict;
	struct function_configuration *configuration = function_configuration.lookup(&only);
	struct function_traffic *traffic = function_counters.lookup(&index);
	bool valid;

	if (!state || !configuration || !traffic)
		return leave_function(ctx, state, NO_PROGRAM, 0);
	verdict = call_user(ctx, state, point, configuration, traffic);
	valid = is_valid_verdict(verdict, point);
	add(&traffic->received, amount_of(ctx, state));
	count_verdict(traffic, valid ? verdict : 0, amount_of(ctx, state));
	if (stage_of(state)->changed)
		state->changed = index + 1;
	if (!valid && PATCHED(MAGIC_CLOSED) && point != STAGE_DROPPED)
		return drop_at(ctx, state, point, FUNCTION_FAULT);
	if (valid && verdict == STAGE_DROP) {
		count_reason(index, stage_of(state)->reason, amount_of(ctx, state).packets);
		return drop_at(ctx, state, point, FUNCTION_DROPPED);
	}
	return carry_out(ctx, state, valid ? verdict : STAGE_GO_ON, point);
}

#endif
#endif
