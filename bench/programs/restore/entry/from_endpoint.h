/* SPDX-License-Identifier: GPL-2.0-only */
/* Not used: a contestant has two programs. */
#ifndef BENCH_FROM_ENDPOINT_H
#define BENCH_FROM_ENDPOINT_H

#include "lib/kernel.h"

static __always_inline int process_endpoint(context *ctx)
{
	return XDP_DROP;
}

#endif
