/* SPDX-License-Identifier: GPL-2.0-only */
/* As from_underlay.h beside it, in the other direction. */
#ifndef BENCH_FROM_ENDPOINT_H
#define BENCH_FROM_ENDPOINT_H

#include "lib/kernel.h"

static __always_inline int process_endpoint(context *ctx)
{
	return redirect_by(1);
}

#endif
