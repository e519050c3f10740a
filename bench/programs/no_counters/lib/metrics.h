/* SPDX-License-Identifier: GPL-2.0-only */
/* For the profile: the programs without any counting. Stands in for bpf/lib/metrics.h. */
#ifndef DROPLET_METRICS_H
#define DROPLET_METRICS_H

static __always_inline void count(__u32 outcome, __u32 bytes)
{
}

static __always_inline void count_delivered(__u32 slot, __u32 bytes)
{
}

static __always_inline void count_sender(__u32 slot, enum outcome outcome, __u32 bytes)
{
}

#endif
