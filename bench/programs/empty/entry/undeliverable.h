/* SPDX-License-Identifier: GPL-2.0-only */
/* Drops every frame. The other yardsticks take it from here: none of them calls it. */
#ifndef BENCH_UNDELIVERABLE_H
#define BENCH_UNDELIVERABLE_H

#include "lib/kernel.h"

static __always_inline int process_undeliverable(context *ctx)
{
	return verdict(FIRST_DROPPED, 0);
}

#endif
