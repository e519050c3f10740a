// SPDX-License-Identifier: GPL-2.0-only
/* The programs of tc: the same code as for XDP. The agent does not attach them yet. */
#include "hooks/tc.h"
#include "entry/from_underlay.h"
#include "entry/from_endpoint.h"
#include "entry/undeliverable.h"

/* As transit_xdp() in xdp.c. */
int transit_tc(struct __sk_buff *ctx)
{
	read_headers(ctx);
	return process_underlay(ctx);
}

/* As transit_agent(). */
int transit_agent_tc(struct __sk_buff *ctx)
{
	read_headers(ctx);
	return process_endpoint(ctx);
}

/* As transit_errors(). */
int transit_errors_tc(struct __sk_buff *ctx)
{
	read_headers(ctx);
	return process_undeliverable(ctx);
}
