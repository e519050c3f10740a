/* SPDX-License-Identifier: GPL-2.0-only */
/* Token buckets: how often something may happen, with a burst. */
#ifndef DROPLET_RATELIMIT_H
#define DROPLET_RATELIMIT_H

#include "lib/kernel.h"
#include "structs.h"
#include "constants.h"

/*
 * Takes one token of a bucket that holds `burst` and gains `per_second` a second; false when it is empty. CPUs that
 * share a bucket may race: a token is then counted once instead of twice.
 */
static __always_inline bool ratelimit_take(struct token_bucket *bucket, __u64 per_second, __u64 burst)
{
	__u64 now = bpf_jiffies64(), gained = (now - bucket->tick) * per_second / TICKS_PER_SECOND;

	if (gained >= bucket->used) {
		bucket->used = 0;
		bucket->tick = now;
	} else if (gained) { /* only whole tokens: the rest of the time counts for the next one */
		bucket->used -= gained;
		bucket->tick += gained * TICKS_PER_SECOND / per_second;
	}
	if (bucket->used >= burst)
		return false;
	bucket->used++;
	return true;
}

#endif
