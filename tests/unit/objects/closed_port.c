/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * A function as an object file, for tests of its reader. closed_port.o is made of it:
 *
 *	clang-14 -target bpf -g -O2 -I bpf -I /usr/include/x86_64-linux-gnu -fdebug-compilation-dir=. -c closed_port.c
 */
#include "stage.h"

#define MAP(name, kind, key_type, value_type, entries)                                                                 \
	struct {                                                                                                       \
		int (*type)[kind];                                                                                     \
		key_type *key;                                                                                         \
		value_type *value;                                                                                     \
		int (*max_entries)[entries];                                                                           \
	} name __attribute__((section(".maps"), used))

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;

struct key {
	__u32 vni;
	__u16 port;
	__u16 pad;
};

struct value {
	__u64 packets;
	__u8 mac[6];
	struct {
		__s32 low;
		__u16 words[3];
	} inner;
};

MAP(seen, 9, struct key, struct value, 1000);
MAP(limit, 2, __u32, __u64, 4);

static __attribute__((noinline)) int is_closed(struct stage *stage, __u16 port)
{
	const __u16 *closed = stage_configuration(stage);
	__u32 first = 0;
	__u64 *most = bpf_map_lookup_elem(&limit, &first);

	return closed[0] == port || (most && *most > 100);
}

int stage_function(struct stage *stage)
{
	struct key key = {.vni = stage->vni};
	struct value one = {.packets = 1}, *value;
	__u16 from, to;

	if (stage_ports(stage, &from, &to))
		return STAGE_GO_ON;
	key.port = to;
	value = bpf_map_lookup_elem(&seen, &key);
	if (value)
		__sync_fetch_and_add(&value->packets, 1);
	else
		bpf_map_update_elem(&seen, &key, &one, 0);
	if (!is_closed(stage, to))
		return STAGE_GO_ON;
	stage->reason = 3;
	return STAGE_DROP;
}
