/* SPDX-License-Identifier: GPL-2.0-only */
/* A function that counts packets by destination port in a hash map. */
#include "stage.h"

BPF_HASH(packets, __u32, __u64, 1024);

int stage_function(struct stage *stage)
{
	__u16 source = 0, destination = 0;
	__u64 one = 1, *count;
	__u32 key;

	if (stage_ports(stage, &source, &destination))
		return STAGE_GO_ON;
	key = destination;
	count = packets.lookup(&key);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		packets.update(&key, &one);
	return STAGE_GO_ON;
}
