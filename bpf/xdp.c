// SPDX-License-Identifier: GPL-2.0-only
/* The programs of XDP, and those on its tracepoints. */
#include "hooks/xdp.h"
#include "entry/from_underlay.h"
#include "entry/from_endpoint.h"
#include "entry/undeliverable.h"
#include "entry/lost_frames.h"

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
