/* SPDX-License-Identifier: GPL-2.0-only */
/* Counters. A missing counter never changes a verdict. */
#ifndef DROPLET_METRICS_H
#define DROPLET_METRICS_H

#include "maps.h"
#include "outcomes.h"
#include "structs.h"

/* For an interface that belongs to no endpoint, a slot beyond the end of every map. */
static __always_inline __u32 slot_of(__u32 ifindex)
{
	return ifindex - IFINDEX_BASE;
}

/* What a frame adds to a counter. The headers of a GSO packet count once. */
struct amount {
	__u32 packets;
	__u32 bytes;
};

static __always_inline void add(struct traffic *traffic, struct amount amount)
{
	traffic->packets += amount.packets;
	traffic->bytes += amount.bytes;
}

static __always_inline void count(__u32 outcome, struct amount amount)
{
	struct traffic *traffic = outcomes.lookup(&outcome);

	if (traffic) /* open */
		add(traffic, amount);
}

static __always_inline void count_delivered(__u32 slot, struct amount amount)
{
	struct endpoint_traffic *traffic = endpoint_counters.lookup(&slot);

	if (traffic)
		add(&traffic->delivered, amount);
}

/*
 * The counters of the endpoint that sent a frame. Answered frames were not forwarded, and are not counted here; those
 * that a process has are counted once it answered.
 */
static __always_inline void count_sender(__u32 slot, enum outcome outcome, struct amount amount)
{
	struct endpoint_traffic *traffic = endpoint_counters.lookup(&slot);

	if (!traffic || outcome < FIRST_FORWARDED || outcome == FUNCTION_HANDED_OVER)
		return;
	if (outcome >= FIRST_DROPPED) {
		add(&traffic->dropped, amount);
		return;
	}
	add(&traffic->sent, amount);
	if (outcome == SENT_DIRECT || outcome == DELIVERED_SAME_HOST || outcome == FUNCTION_DELIVERED)
		add(&traffic->direct, amount);
}

#endif
