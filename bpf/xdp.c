// SPDX-License-Identifier: GPL-2.0-only
/* The programs of XDP, and those on its tracepoints. */
#include "hooks/xdp.h"
#include "entry/from_underlay.h"
#include "entry/from_endpoint.h"
#include "entry/undeliverable.h"
#include "entry/lost_frames.h"
#include "entry/resumed.h"
#include "entry/function.h"

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
#endif
