/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The maps: name, type, key and value. The agent creates them in the sizes of its settings and passes them to the
 * programs; the sizes below are for the maps that bcc creates while it compiles.
 */
#ifndef DROPLET_MAPS_H
#define DROPLET_MAPS_H

#include "lib/kernel.h"
#include "structs.h"
#include "constants.h"
#include "outcomes.h"
#include "slots.h"

BPF_F_TABLE("hash", struct overlay_key, struct endpoint, endpoints, 1, BPF_F_NO_PREALLOC);
BPF_TABLE("array", __u32, struct interface, interfaces, 1);
BPF_F_TABLE("lpm_trie", struct network_key, struct network, networks, 1, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", __u32, struct vpc, vpcs, 1, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct address, struct droplet, droplets, 1, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct next_hop_key, struct next_hop, next_hops, 1, BPF_F_NO_PREALLOC);
BPF_TABLE("array", __u32, struct local_droplet, local_droplets, MAX_LOCAL_DROPLETS);
BPF_TABLE("lru_hash", struct overlay_key, struct direct_path, direct, 16);
BPF_TABLE("array", __u32, struct generation, generations, GENERATIONS);
BPF_TABLE("percpu_array", __u32, struct path_cache, path_caches, 1);
BPF_TABLE("percpu_array", __u32, struct hop_cache, hop_caches, 1);
BPF_TABLE("percpu_array", __u32, struct slot_cache, slot_caches, 1);
BPF_TABLE("lru_hash", struct detour_key, struct detour, detours, 16);
BPF_TABLE("lru_hash", struct fragment_key, struct fragment, fragments, 16);
BPF_TABLE("array", __u32, struct token_bucket, icmp_ratelimit, ICMP_RATELIMIT_BUCKETS);
BPF_TABLE("percpu_array", __u32, struct traffic, outcomes, OUTCOME_COUNT);
BPF_TABLE("percpu_array", __u32, struct endpoint_traffic, endpoint_counters, 1);
BPF_TABLE("prog", __u32, __u32, programs, SLOTS);
BPF_TABLE("percpu_array", __u32, struct frame_state, frame_states, 1);
#if STAGES
BPF_TABLE("array", __u32, struct endpoint_stages, endpoint_stages, 1);
BPF_TABLE("hash", __u32, struct vpc_stages, vpc_stages, 1);
BPF_TABLE("array", __u32, struct host_stages, host_stages, 1);
BPF_TABLE("prog", __u32, __u32, stage_programs, STAGE_POINTS *STAGE_SLOTS);
BPF_TABLE("percpu_array", __u32, struct function_traffic, function_counters, STAGE_POINTS *STAGE_SLOTS);
BPF_TABLE("percpu_array", __u32, __u64, function_reasons, STAGE_POINTS * STAGE_SLOTS * STAGE_REASONS);
BPF_TABLE("array", __u32, struct function_process, function_processes, STAGE_POINTS *STAGE_SLOTS);
#endif
#if HAS_GSO /* tc alone */
BPF_TABLE("percpu_array", __u32, struct scratch, scratches, 1);
#endif
BPF_TABLE("array", __u32, struct kernel_layout, kernel_layouts, 1);
BPF_TABLE("hash", struct watched_key, struct watched_mark, watched, 1);
BPF_TABLE("percpu_hash", struct failure_key, struct failure_count, failures, 1);

#endif
