// SPDX-License-Identifier: GPL-2.0-only
/* The programs of XDP, and those on its tracepoints. */
#include "hooks/xdp.h"
#include "entry/from_underlay.h"
#include "entry/from_endpoint.h"
#include "entry/undeliverable.h"
#include "entry/lost_frames.h"
#include "entry/resumed.h"
#include "entry/process.h"

/* Transit XDP: on the interfaces of the underlay, and by tail call from the transit agent for the same host. */
int transit_xdp(struct xdp_md *ctx)
{
	return process_underlay(ctx);
}

/* The transit agent: on the host side of every endpoint's veth. */
int transit_agent(struct xdp_md *ctx)
{
	return process_endpoint(ctx);
}

/* Transit errors: by tail call from both. */
int transit_errors(struct xdp_md *ctx)
{
	return process_undeliverable(ctx);
}

#if STAGES
/* Transit resume: by tail call from functions. */
int transit_resume(struct xdp_md *ctx)
{
	return process_resumed(ctx);
}

/* Agent resume: likewise. */
int agent_resume(struct xdp_md *ctx)
{
	return process_resumed_endpoint(ctx);
}

/* The programs around users' functions, one for each stage point. */
int function_from_endpoint(struct xdp_md *ctx)
{
	return process_function(ctx, STAGE_FROM_ENDPOINT);
}

int function_to_endpoint(struct xdp_md *ctx)
{
	return process_function(ctx, STAGE_TO_ENDPOINT);
}

int function_forwarded(struct xdp_md *ctx)
{
	return process_function(ctx, STAGE_FORWARDED);
}

int function_from_underlay(struct xdp_md *ctx)
{
	return process_function(ctx, STAGE_FROM_UNDERLAY);
}

int function_passed(struct xdp_md *ctx)
{
	return process_function(ctx, STAGE_PASSED);
}

int function_dropped(struct xdp_md *ctx)
{
	return process_function(ctx, STAGE_DROPPED);
}

/* In the slot of a function in a process. */
int function_process(struct xdp_md *ctx)
{
	return process_handed_over(ctx);
}

/* On the far end of its pair: to the socket. A GSO packet was cut on its way, and is shorter now. */
int function_socket(struct xdp_md *ctx)
{
	struct function_meta *meta = frame_start(ctx);

	if ((void *)(meta + 1) > frame_end(ctx) || meta->version != FUNCTION_META_VERSION ||
	    meta->point != PATCHED(MAGIC_INDEX) / STAGE_SLOTS + 1 || meta->packet_offset != sizeof(*meta))
		return XDP_DROP; /* of the host's own stack */
	meta->packet_length = frame_length(ctx) - sizeof(*meta);
	return function_sockets.redirect_map(PATCHED(MAGIC_LANE), XDP_DROP);
}

/* Checks the metadata of an answer, and takes it off. */
static __always_inline bool read_answer(struct xdp_md *ctx, struct function_answer *answer)
{
	struct function_meta *meta = frame_start(ctx);
	const struct address *target = (void *)(meta + 1);
	__u32 front = sizeof(*meta);

	if ((void *)(meta + 1) > frame_end(ctx) || meta->version != FUNCTION_META_VERSION)
		return false;
	answer->token = meta->token;
	answer->verdict = meta->verdict;
	answer->reason = meta->user_reason;
	if (answer->verdict == FUNCTION_SEND_TO) {
		front += FUNCTION_ADDRESS_SIZE;
		if ((void *)(target + 1) > frame_end(ctx))
			return false;
		copy_address(&answer->target, target);
	}
	if (meta->packet_offset != front || front + meta->packet_length != frame_length(ctx))
		return false;
	return !bpf_xdp_adjust_head(ctx, (int)front);
}

/* Passes an answer on to tc, with what it says in the metadata of XDP. */
static __always_inline bool pass_to_tc(struct xdp_md *ctx, const struct function_answer *answer)
{
	struct function_answer *to;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*answer)))
		return false;
	to = (void *)(long)ctx->data_meta;
	if ((void *)(to + 1) > frame_start(ctx))
		return false;
	*to = *answer;
	return true;
}

/* On the near end of its pair: the process's answers. */
int function_answer(struct xdp_md *ctx)
{
	__u32 index = PATCHED(MAGIC_INDEX);
	struct function_process *process = function_processes.lookup(&index);
	struct function_answer answer = {};

	if (!process || !read_answer(ctx, &answer))
		return refuse_answer(ctx, index);
	if (process->flags & PROCESS_ANSWERS_TC)
		return pass_to_tc(ctx, &answer) ? XDP_PASS : refuse_answer(ctx, index);
	return process_answer(ctx, &answer, index);
}
#endif
