// SPDX-License-Identifier: GPL-2.0-only
/* The programs of tc: the same code as for XDP. */
#include "hooks/tc.h"
#include "entry/from_underlay.h"
#include "entry/from_endpoint.h"
#include "entry/undeliverable.h"
#include "entry/resumed.h"
#include "entry/process.h"

/* As transit_xdp() in xdp.c. */
int tc_transit(struct __sk_buff *ctx)
{
	read_headers(ctx);
	return process_underlay(ctx);
}

/* As transit_agent(). */
int tc_agent(struct __sk_buff *ctx)
{
	read_headers(ctx);
	return process_endpoint(ctx);
}

/* As transit_errors(). */
int tc_errors(struct __sk_buff *ctx)
{
	read_headers(ctx);
	return process_undeliverable(ctx);
}

#if STAGES
/* As transit_resume(). */
int tc_resume(struct __sk_buff *ctx)
{
	read_headers(ctx);
	return process_resumed(ctx);
}

/* As agent_resume(). */
int tc_agent_resume(struct __sk_buff *ctx)
{
	read_headers(ctx);
	return process_resumed_endpoint(ctx);
}

/* The programs around users' functions, one for each stage point. Those that call them have read the headers. */
int tc_function_from_endpoint(struct __sk_buff *ctx)
{
	return process_function(ctx, STAGE_FROM_ENDPOINT);
}

int tc_function_to_endpoint(struct __sk_buff *ctx)
{
	return process_function(ctx, STAGE_TO_ENDPOINT);
}

int tc_function_forwarded(struct __sk_buff *ctx)
{
	return process_function(ctx, STAGE_FORWARDED);
}

int tc_function_from_underlay(struct __sk_buff *ctx)
{
	return process_function(ctx, STAGE_FROM_UNDERLAY);
}

int tc_function_passed(struct __sk_buff *ctx)
{
	return process_function(ctx, STAGE_PASSED);
}

int tc_function_dropped(struct __sk_buff *ctx)
{
	return process_function(ctx, STAGE_DROPPED);
}

/* In the slot of a function in a process. */
int tc_function_process(struct __sk_buff *ctx)
{
	read_headers(ctx);
	return process_handed_over(ctx);
}

/* On the near end of its pair: answers that function_answer() in xdp.c checked. */
int tc_function_answer(struct __sk_buff *ctx)
{
	const struct function_answer *given = (void *)(long)ctx->data_meta;
	__u32 index = PATCHED(MAGIC_INDEX);
	struct function_answer answer;

	if ((void *)(given + 1) > frame_start(ctx)) /* of the host's own stack */
		return TC_ACT_SHOT;
	answer = *given;
	read_headers(ctx);
	return process_answer(ctx, &answer, index);
}
#endif
