/* SPDX-License-Identifier: GPL-2.0-only */
/* Counters. A missing counter never changes a verdict. */
#ifndef DROPLET_METRICS_H
#define DROPLET_METRICS_H

#include "maps.h"
#include "outcomes.h"
#include "structs.h"

static __always_inline void add(struct traffic *traffic, __u32 bytes)
{
	traffic->packets++;
	traffic->bytes += bytes;
}

static __always_inline void count(__u32 outcome, __u32 bytes)
{
	struct traffic *traffic = outcomes.lookup(&outcome);

	if (traffic) /* open */
		add(traffic, bytes);
}

static __always_inline void count_delivered(__u32 slot, __u32 bytes)
{
	struct endpoint_traffic *traffic = endpoint_counters.lookup(&slot);

	if (traffic)
		add(&traffic->delivered, bytes);
}

/* The counters of the endpoint that sent a frame. Answered frames were not forwarded, and are not counted here. */
static __always_inline void count_sender(__u32 slot, enum outcome outcome, __u32 bytes)
{
	struct endpoint_traffic *traffic = endpoint_counters.lookup(&slot);

	if (!traffic || outcome < FIRST_FORWARDED)
		return;
	if (outcome >= FIRST_DROPPED) {
		add(&traffic->dropped, bytes);
		return;
	}
	add(&traffic->sent, bytes);
	if (outcome == SENT_DIRECT || outcome == DELIVERED_SAME_HOST)
		add(&traffic->direct, bytes);
}

#endif
