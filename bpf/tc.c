// SPDX-License-Identifier: GPL-2.0-only
/* The programs of tc: the same code as for XDP. */
#include "hooks/tc.h"
#include "entry/from_underlay.h"
#include "entry/from_endpoint.h"
#include "entry/undeliverable.h"

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
