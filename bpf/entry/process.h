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
#include "entry/originated.h"
#include "lib/function_meta.h"

#if STAGES

BPF_TABLE("lru_hash", __u64, struct frame_state, function_pending, 1);
BPF_XSKMAP(function_sockets, 1);
_Static_assert(OUTCOME_COUNT <= 64 * PROCESS_REASONS, "function_process.reasons has a bit for each outcome");

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
	return closed && point != STAGE_DROPPED ? drop_at(ctx, state, point, FUNCTION_FAULT)
						: continue_chain(ctx, state, point);
}

/* Bytes in front of the packet that a process gets. */
static __always_inline __u32 bytes_in_front(const struct frame_state *state, __u32 point)
{
	return point == STAGE_FROM_UNDERLAY || point == STAGE_PASSED ? 0 : bounded(state->tunnel.headers, MAX_HEADERS);
}

/* The queue of a packet: one for all packets of a flow, in both directions, and for all fragments of a pair of hosts.
 */
static __always_inline __u32 queue_of(context *ctx, const struct frame_state *state, __u32 queues)
{
	const struct transport *transport = &state->transport;
	void *inner = frame_start(ctx) + bounded(state->tunnel.headers, MAX_HEADERS);
	const struct ports *ports = inner + bounded(transport->offset, MAX_OFFSET);
	__u64 addresses, both = 0;

	if (!state->packet.kind || queues < 2)
		return 0;
	addresses = (__u64)address_word(&state->packet.from.address) + address_word(&state->packet.to.address);
	if (transport->parsed && !transport->fragment && (void *)(ports + 1) <= frame_end(ctx) &&
	    (transport->protocol == IPPROTO_UDP || transport->protocol == IPPROTO_TCP ||
	     transport->protocol == IPPROTO_SCTP))
		both = (__u64)(ports->source + ports->destination) << 8;
	return hash_pair(addresses, both | (__u8)transport->protocol) % queues & (PROCESS_QUEUES - 1);
}

/* Whether a frame of the process holds the packet, of a GSO packet each piece. At dropped, it may be of any form. */
static __always_inline bool fits_frame(context *ctx, const struct function_process *process,
				       const struct frame_state *state, __u32 point)
{
	__u32 headers = point == STAGE_FROM_UNDERLAY ? state->tunnel.headers : 0;
	bool gso = HAS_GSO && segment_bytes(ctx);

	if (gso && (state->tunnel.headers || (point == STAGE_DROPPED && source_ifindex(ctx, state) < IFINDEX_BASE)))
		return false; /* nothing can cut it in front of the process */
	if (point == STAGE_DROPPED && !gso)
		return frame_length(ctx) <= process->longest;
	return state->tunnel.longest + headers <= process->longest;
}

/* The interface behind which a process takes the packet now, 0 if none does. */
static __always_inline __u32 find_process(context *ctx, const struct function_process *process,
					  const struct frame_state *state, __u32 point)
{
	__u32 queue, lane;

	if (!(process->flags & PROCESS_SERVED) || !fits_frame(ctx, process, state, point))
		return 0;
	queue = queue_of(ctx, state, process->queues);
	lane = process->lane + queue;
	return function_sockets.lookup(&lane) ? process->ifindex[queue & (PROCESS_QUEUES - 1)] : 0;
}

/* Whether a process at dropped is to see frames with this outcome. */
static __always_inline bool is_wanted(const struct function_process *process, __u32 outcome)
{
	return process->reasons[outcome >> 6 & (PROCESS_REASONS - 1)] >> (outcome & 63) & 1;
}

/* Whether the packet is for the process at all. */
static __always_inline bool takes(const struct function_process *process, const struct frame_state *state, __u32 point)
{
	if (process->flags & PROCESS_HANDED && !state->handed)
		return false;
	return point != STAGE_DROPPED || is_wanted(process, state->outcome);
}

static __always_inline void fill_meta(context *ctx, struct function_meta *meta, struct frame_state *state, __u32 point,
				      __u64 token)
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
	meta->drop_reason = point == STAGE_DROPPED ? state->outcome : 0;
	meta->vni = stage_of((struct frame_state *)state)->vni;
	meta->endpoint_slot = slot;
	meta->packet_offset = sizeof(*meta);
	meta->packet_length = frame_length(ctx) - sizeof(*meta);
	meta->label = stage_of(state)->label;
	meta->token = token;
}

/* Takes the packet out of the pipeline. After an error it cannot go on. */
static __always_inline enum outcome hand_to_process(context *ctx, struct frame_state *state, __u32 point, __u32 index)
{
	__u32 headers = bytes_in_front(state, point);
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

/* At dropped, where a process gets the frame itself: it is counted at once, as the process may keep it. */
static __always_inline int mirror_dropped(context *ctx, struct frame_state *state, __u32 index, __u32 ifindex)
{
	struct function_traffic *traffic = function_counters.lookup(&index);
	bool counted = state->processed;
	enum outcome outcome = hand_to_process(ctx, state, STAGE_DROPPED, index);

	if (!counted)
		leave_function(ctx, state, state->outcome, 0);
	if (traffic && outcome != FUNCTION_HANDED_OVER)
		traffic->faults += amount_of(ctx, state).packets;
	return verdict(outcome == FUNCTION_HANDED_OVER ? outcome : state->outcome, ifindex);
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
	__u32 ifindex;

	if (!state || !process)
		return leave_function(ctx, state, NO_PROGRAM, 0);
	if (!takes(process, state, point))
		return continue_chain(ctx, state, point);
	if (traffic)
		add(&traffic->received, amount);
	ifindex = find_process(ctx, process, state, point);
	if (!ifindex) {
		if (traffic)
			traffic->faults += amount.packets;
		return on_fault(ctx, state, point, closed);
	}
	if (process->flags & PROCESS_HANDED)
		state->handed = 0;
	if (point == STAGE_DROPPED)
		return mirror_dropped(ctx, state, index, ifindex);
	outcome = hand_to_process(ctx, state, point, index);
	if (outcome != FUNCTION_HANDED_OVER)
		return drop_at(ctx, state, point, outcome);
	return leave_function(ctx, state, outcome, ifindex);
}

static __always_inline int refuse_answer(context *ctx, __u32 index)
{
	struct function_traffic *traffic = function_counters.lookup(&index);
	struct amount amount = {1, frame_length(ctx)};

	if (traffic)
		traffic->faults++;
	return leave(ctx, RECEIVED_FROM_FUNCTION, FUNCTION_ANSWER, amount, 0);
}

/* A packet of the process's own. */
static __always_inline int process_originated(context *ctx, const struct function_answer *answer, __u32 index)
{
	struct function_traffic *traffic = function_counters.lookup(&index);
	struct interface *sender = find_originator(answer, index);
	struct frame_state *state = sender ? new_state(ctx) : 0;

	if (!state)
		return refuse_answer(ctx, index);
	if (traffic) {
		add(&traffic->received, amount_of(ctx, state));
		count_verdict(traffic, STAGE_SEND, amount_of(ctx, state));
	}
	return send_originated(ctx, answer, sender, state);
}

/*
 * Whether the endpoints of a packet are still of its VPC. A process may keep a packet until their slots belong to
 * endpoints of other VPCs, as which it must not continue.
 */
static __always_inline bool is_still_of_vpc(const struct frame_state *state, __u32 point)
{
	__u32 vni = state->tunnel.vni;

	if (point == STAGE_DROPPED) /* does not continue */
		return true;
	if (state->rx_ifindex >= IFINDEX_BASE && !find_receiver(state->rx_ifindex, vni))
		return false;
	return point != STAGE_TO_ENDPOINT || find_receiver(state->receiver, vni);
}

/* The chain that a packet of this kind would meet now. */
static __always_inline __u32 current_chain(context *ctx, const struct frame_state *state, __u32 point)
{
	__u32 ifindex = point == STAGE_TO_ENDPOINT ? state->receiver : state->rx_ifindex;
	__u32 flag = point == STAGE_TO_ENDPOINT ? INTERFACE_STAGES_TO : INTERFACE_STAGES_FROM;
	struct interface *endpoint;

	if (point == STAGE_DROPPED)
		return dropped_chain(known_vni(ctx, state));
	if (point == STAGE_FROM_UNDERLAY)
		return underlay_chain(state->tunnel.vni);
	if (point == STAGE_FORWARDED)
		return forwarded_chain(state->tunnel.vni, state->outcome);
	endpoint = find_interface(ifindex);
	return endpoint ? endpoint_chain(endpoint, ifindex, flag) : 0;
}

/*
 * Lets the packet go on with functions of the chain as it is now: while a process kept it, slots may have got functions
 * of other VPCs. Those that were still to run stay if the chain ends with them, else those behind this function replace
 * them. Returns whether it may go on: not if this function is no longer there, either, nor if a VNI has become that of
 * a VPC which this function is not for.
 */
static __always_inline bool renew_chain(context *ctx, struct frame_state *state, __u32 point, __u32 index)
{
	__u32 now = current_chain(ctx, state, point), behind = 0;
	bool there = find_function(now, index, &behind);

	if (ends_with(now, state->chain))
		return there || (point != STAGE_FORWARDED && point != STAGE_FROM_UNDERLAY);
	state->chain = behind;
	return there;
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

/*
 * For the next function of the chain: where the headers are in the answered packet. Behind the chain a packet that a
 * process had is parsed again anyway.
 */
static __always_inline void describe_answer(context *ctx, struct frame_state *state)
{
	void *inner = frame_start(ctx) + bounded(state->tunnel.headers, MAX_HEADERS), *end = frame_end(ctx);
	struct stage *stage = stage_of(state);
	enum outcome outcome = MALFORMED_INNER;

	state->packet.kind = 0;
	state->transport.parsed = 0;
	if (inner + sizeof(struct ethhdr) <= end)
		outcome = read_packet(inner, end, state->tunnel.length, state->tunnel.vni, &state->packet);
	if (outcome == CONTINUE)
		outcome = find_transport(inner, end, &state->packet, &state->transport);
	if (outcome != CONTINUE)
		state->transport.parsed = 0;
	stage->ethertype = state->packet.kind;
	stage->transport = state->transport.parsed ? state->transport.offset : 0;
	stage->protocol = state->transport.parsed ? state->transport.protocol : 0;
	stage->flags = transport_flags(state);
}

/* At dropped, only that there is an answer counts. */
static __always_inline __u32 counted_verdict(const struct frame_state *state, __u32 verdict, __u32 point)
{
	if (point == STAGE_DROPPED && verdict >= STAGE_GO_ON && verdict <= STAGE_SEND)
		return STAGE_GO_ON;
	return is_valid_verdict(state, verdict, point) ? verdict : 0;
}

/* Continues with a packet whose metadata is checked and taken off. */
static __always_inline int process_answer(context *ctx, const struct function_answer *answer, __u32 index)
{
	__u32 closed = PATCHED(MAGIC_CLOSED), point = index / STAGE_SLOTS + 1;
	struct function_traffic *traffic = function_counters.lookup(&index);
	struct amount amount = {1, frame_length(ctx)};
	struct frame_state *state;
	__u32 verdict;

	if (is_originated(answer))
		return process_originated(ctx, answer, index);
	state = take_back(ctx, answer);
	if (!state || !is_still_of_vpc(state, point) || !renew_chain(ctx, state, point, index))
		return refuse_answer(ctx, index);
	verdict = counted_verdict(state, answer->verdict, point);
	if (traffic)
		count_verdict(traffic, verdict, amount);
	if (state->chain)
		describe_answer(ctx, state);
	if (!verdict)
		return on_fault(ctx, state, point, closed);
	if (verdict == STAGE_DROP) {
		count_reason(index, answer->reason < STAGE_REASONS ? answer->reason : STAGE_REASONS - 1, 1);
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
