/* SPDX-License-Identifier: GPL-2.0-only */
/* Drops every frame: what the harness itself costs, and the far end at which frames are counted. */
#ifndef BENCH_FROM_UNDERLAY_H
#define BENCH_FROM_UNDERLAY_H

#include "lib/kernel.h"

static __always_inline int process_underlay(context *ctx)
{
	return verdict(FIRST_DROPPED, 0);
}

#endif
