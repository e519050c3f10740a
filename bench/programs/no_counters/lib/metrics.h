/* SPDX-License-Identifier: GPL-2.0-only */
/* For the profile: the programs without any counting. Stands in for bpf/lib/metrics.h. */
#ifndef DROPLET_METRICS_H
#define DROPLET_METRICS_H

struct amount {
	__u32 packets;
	__u32 bytes;
};

static __always_inline __u32 slot_of(__u32 ifindex)
{
	return ifindex - IFINDEX_BASE;
}

static __always_inline void count(__u32 outcome, struct amount amount)
{
}

static __always_inline void count_delivered(__u32 slot, struct amount amount)
{
}

static __always_inline void count_sender(__u32 slot, enum outcome outcome, struct amount amount)
{
}

#endif
