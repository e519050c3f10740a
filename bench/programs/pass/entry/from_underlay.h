/* SPDX-License-Identifier: GPL-2.0-only */
/* Passes every frame to the host's network stack: how kernel VXLAN and bridge get their frames. */
#ifndef BENCH_FROM_UNDERLAY_H
#define BENCH_FROM_UNDERLAY_H

#include "lib/kernel.h"

static __always_inline int process_underlay(context *ctx)
{
	return XDP_PASS;
}

#endif
