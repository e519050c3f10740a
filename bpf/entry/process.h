/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Functions in processes. The program in the function's slot puts struct function_meta in front of the packet and
 * redirects it to `near`, the end of a veth pair; the program on `far`, the other end, gives it to the process's AF_XDP
 * socket. What the process answers comes out at `near`, where a program checks it and continues with the packet as if
 * the function had returned the verdict.
 *
 * The process is not trusted: all that is known of a packet waits in the map function_pending under a token. The map is
 * the function's own, so that a process can claim no packet of another one. It can answer what it got once.
 *
 * The agent replaces the constants and the two maps below (agent/datapath/functions/linker.py).
 */
#ifndef DROPLET_PROCESS_H
#define DROPLET_PROCESS_H

#include "entry/function.h"
#include "lib/function_meta.h"

#if STAGES

BPF_TABLE("lru_hash", __u64, struct frame_state, function_pending, 1);
BPF_XSKMAP(function_sockets, 1);

/* As call_next(), where the point is no constant: a slower call, which does not matter here. */
static __always_inline enum outcome call_any(context *ctx, struct frame_state *state, __u32 point)
{
	__u32 slot = (point - 1) * STAGE_SLOTS + (state->chain & CHAIN_MASK) - 1;

	state->chain >>= CHAIN_BITS;
	state->called = CALLED_AT(point) + 1;
	stage_programs.call(ctx, slot);
	state->called = 0;
	return NO_PROGRAM;
}

/* To the next function of the chain, or on behind the point. */
static __always_inline int continue_chain(context *ctx, struct frame_state *state, __u32 point)
{
	__u32 slot, i;

#pragma clang loop unroll(disable)
	for (i = 0; i < STAGE_SLOTS && !state->sends && state->chain; i++) {
		slot = (state->chain & CHAIN_MASK) - 1;
		call_any(ctx, state, point);
		if (!passes_over(point, slot))
			return drop_at(ctx, state, point, NO_PROGRAM);
	}
	return resume(ctx, state, point);
}

static __always_inline int on_fault(context *ctx, struct frame_state *state, __u32 point, __u32 closed)
{
	return closed ? drop_at(ctx, state, point, FUNCTION_FAULT) : continue_chain(ctx, state, point);
}

/* Whether a process serves this function now, and its frames hold the packet. */
static __always_inline bool takes(context *ctx, const struct function_process *process, const struct frame_state *state,
				  __u32 point)
{
	__u32 lane = process->lane, headers = point == STAGE_FROM_UNDERLAY ? state->tunnel.headers : 0;

	if (!(process->flags & PROCESS_SERVED) || state->tunnel.longest + headers > process->longest)
		return false;
	if (HAS_GSO && state->tunnel.headers && segment_bytes(ctx)) /* nothing can cut it in front of the process */
		return false;
	return function_sockets.lookup(&lane);
}

static __always_inline void fill_meta(context *ctx, struct function_meta *meta, const struct frame_state *state,
				      __u32 point, __u64 token)
{
	__u32 rx_ifindex = state->rx_ifindex, slot = 0;

	if (rx_ifindex >= IFINDEX_BASE)
		slot = slot_of(rx_ifindex);
	if (point == STAGE_TO_ENDPOINT)
		slot = slot_of(state->receiver);
	meta->version = FUNCTION_META_VERSION;
	meta->point = point;
	meta->direction = rx_ifindex >= IFINDEX_BASE ? FUNCTION_EGRESS : FUNCTION_INGRESS;
	meta->verdict = FUNCTION_NONE;
	meta->user_reason = 0;
	meta->pad0 = 0;
	meta->drop_reason = 0;
	meta->vni = rx_ifindex >= IFINDEX_BASE ? known_vni(ctx, state) : state->tunnel.vni;
	meta->endpoint_slot = slot;
	meta->packet_offset = sizeof(*meta);
	meta->packet_length = frame_length(ctx) - sizeof(*meta);
	meta->pad1 = 0;
	meta->token = token;
}

/* Takes the packet out of the pipeline. After an error it cannot go on. */
static __always_inline enum outcome hand_to_process(context *ctx, struct frame_state *state, __u32 point, __u32 index)
{
	__u32 headers = point == STAGE_FROM_UNDERLAY ? 0 : bounded(state->tunnel.headers, MAX_HEADERS);
	__u64 token = (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
	struct function_meta *meta;

	state->rx_ifindex = source_ifindex(ctx, state);
	state->answers = HAS_GSO ? state->packets : 1;
	state->changed = index + 1;
	state->processed = 1;
	if (headers) {
		if (remove_outer(ctx, headers, state->outer.summed))
			return MALFORMED_OUTER;
		state->tunnel.headers = 0;
		state->outer.summed = 0;
	}
	if (function_pending.update(&token, state))
		return FUNCTION_FAULT;
	if (add_front(ctx, sizeof(*meta)))
		return NO_HEADROOM;
	meta = frame_start(ctx);
	if ((void *)(meta + 1) > frame_end(ctx))
		return NO_HEADROOM;
	fill_meta(ctx, meta, state, point, token);
	return FUNCTION_HANDED_OVER;
}

/* In the function's slot. */
static __always_inline int process_handed_over(context *ctx)
{
	__u32 index = PATCHED(MAGIC_INDEX), closed = PATCHED(MAGIC_CLOSED), point = index / STAGE_SLOTS + 1;
	struct function_traffic *traffic = function_counters.lookup(&index);
	struct function_process *process = function_processes.lookup(&index);
	struct frame_state *state = called_state(CALLED_AT(point));
	struct amount amount = amount_of(ctx, state);
	enum outcome outcome;

	if (!state || !process)
		return leave_function(ctx, state, NO_PROGRAM, 0);
	if (traffic)
		add(&traffic->received, amount);
	if (!takes(ctx, process, state, point)) {
		if (traffic)
			traffic->faults += amount.packets;
		return on_fault(ctx, state, point, closed);
	}
	outcome = hand_to_process(ctx, state, point, index);
	if (outcome != FUNCTION_HANDED_OVER)
		return drop_at(ctx, state, point, outcome);
	return leave_function(ctx, state, outcome, process->ifindex);
}

static __always_inline int refuse_answer(context *ctx, __u32 index)
{
	struct function_traffic *traffic = function_counters.lookup(&index);
	struct amount amount = {1, frame_length(ctx)};

	if (traffic)
		traffic->faults++;
	return leave(ctx, RECEIVED_FROM_FUNCTION, FUNCTION_ANSWER, amount, 0);
}

/*
 * Takes back what is known of the packet. NULL if the token is of none, or was used: of a GSO packet, which was cut on
 * its way, once for each piece. Two answers at the same moment could use that of a GSO packet once more than that.
 */
static __always_inline struct frame_state *take_back(context *ctx, const struct function_answer *answer)
{
	__u64 token = answer->token;
	struct frame_state *kept = function_pending.lookup(&token), *state;
	__u32 only = 0, answers;

	if (!kept || frame_states.update(&only, kept))
		return 0;
	state = frame_states.lookup(&only);
	if (!state)
		return 0;
	answers = state->answers;
	if (!answers || answers > MAX_ANSWERS)
		return 0;
	if (answers > 1)
		__sync_fetch_and_add(&kept->answers, -1);
	else if (function_pending.delete(&token))
		return 0;
	state->length = frame_length(ctx);
	state->packets = 1;
	stage_of(state)->length = state->length;
	stage_of(state)->packets = 1;
	if (state->length < state->tunnel.headers + sizeof(struct ethhdr))
		return 0;
	state->tunnel.length = state->tunnel.longest = state->length - state->tunnel.headers;
	return state;
}

/* Continues with a packet whose metadata is checked and taken off. */
static __always_inline int process_answer(context *ctx, const struct function_answer *answer, __u32 index)
{
	__u32 closed = PATCHED(MAGIC_CLOSED), point = index / STAGE_SLOTS + 1, verdict = answer->verdict;
	struct frame_state *state = take_back(ctx, answer);
	struct function_traffic *traffic = function_counters.lookup(&index);
	struct amount amount = {1, frame_length(ctx)};
	bool valid = is_valid_verdict(verdict, point);

	if (!state)
		return refuse_answer(ctx, index);
	if (traffic)
		count_verdict(traffic, valid ? verdict : 0, amount);
	if (!valid)
		return on_fault(ctx, state, point, closed);
	if (verdict == STAGE_DROP) {
		count_reason(index, answer->reason, 1);
		return drop_at(ctx, state, point, FUNCTION_DROPPED);
	}
	if (verdict != STAGE_GO_ON) {
		state->sends = verdict;
		copy_address((struct address *)&stage_of(state)->target, &answer->target);
	}
	return continue_chain(ctx, state, point);
}

#endif
#endif
