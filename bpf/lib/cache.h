/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Per-CPU caches in front of hash maps. A cache is an array, indexed by a hash of the key, with one copy of an entry at
 * each index. A copy is used only if
 *
 * - its key matches. Paths and next hops have their whole key, and a valid copy of another key stays. Slots have none:
 *   `interfaces` says which address a slot has, and the last slot that was looked up is the copy;
 * - its generation is current. The agent and the programs start a new generation after they change or remove an entry
 *   of the hash map, which invalidates all copies on all CPUs;
 * - it has not expired, for the case that the agent is killed between a change and its generation.
 *
 * Read the generation before the lookup that the copy is made from, so that a later change makes the copy stale. The
 * kernel may reuse an element of a hash for another key while a program reads it. For paths and next hops, look the key
 * up again after copying, and drop the copy if that finds another element; a wrong slot fails in `interfaces`. No other
 * CPU reads a copy, and a CPU handles one frame at a time, so copies need no lock.
 */
#ifndef DROPLET_CACHE_H
#define DROPLET_CACHE_H

#include "lib/address.h"
#include "lib/verifier.h"
#include "maps.h"

#define EXPIRED 0 /* a tick before all others */

static __always_inline __u64 generation(__u32 index)
{
	struct generation *found = generations.lookup(&index);

	return found ? *(volatile __u64 *)&found->number : 0;
}

/*
 * Call it after a path was added, moved or removed; also one that is new in the map may have copies, from before it was
 * evicted. If the agent overwrites the sum, it does so with a number that was never current.
 */
static __always_inline void start_path_generation(void)
{
	__u32 index = GENERATION_PATHS;
	struct generation *found = generations.lookup(&index);

	if (found)
		__sync_fetch_and_add(&found->number, 1);
}

static __always_inline bool is_over(__u64 tick)
{
	return (__s64)(bpf_jiffies64() - tick) >= 0;
}

/* Whether two keys of 20 bytes, aligned to 8, are equal; one branch. */
static __always_inline bool same_key(const void *one, const void *other)
{
	const __u64 *a = one, *b = other;

	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (*(__u32 *)(a + 2) ^ *(__u32 *)(b + 2)));
}

/* The index of a key of 20 bytes, aligned to 8, in a cache of 2^bits entries. */
static __always_inline __u32 cache_index(const void *key, __u32 bits)
{
	const __u64 *word = key;

	return (word[0] ^ word[1] ^ *(__u32 *)(word + 2)) * 0x9e3779b97f4a7c15ULL >> (64 - bits);
}

/* Whether a copy may not be replaced by one of another key: else two keys with one index would take turns. */
static __always_inline bool is_taken(__u64 generation, __u64 now, __u64 expires_tick, const void *cached,
				     const void *key)
{
	return generation == now && !is_over(expires_tick) && !same_key(cached, key);
}

#endif
