// SPDX-License-Identifier: GPL-2.0-only
/* Drops every frame: what the harness itself costs, and the far end at which frames are counted. */
#include "lib/kernel.h"

int transit_xdp(struct xdp_md *ctx)
{
	return XDP_DROP;
}
