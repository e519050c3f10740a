// SPDX-License-Identifier: GPL-2.0-only
/* Not used: a contestant has two programs. */
#include "lib/kernel.h"

int transit_agent(struct xdp_md *ctx)
{
	return XDP_DROP;
}
