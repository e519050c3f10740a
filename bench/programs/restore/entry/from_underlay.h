/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The far end: drops every frame. A frame's page is used again for the next one as it is, so where a program changed
 * what it reads, the far end first puts the frame back in order, and can give it another destination each time.
 * bench/far_end.py packs the struct.
 */
#ifndef BENCH_FROM_UNDERLAY_H
#define BENCH_FROM_UNDERLAY_H

#include "lib/kernel.h"

#define WORDS	24
#define SCATTER 2654435761ULL /* a prime: the destinations come in no order */
#define PLACE	0xff

struct restore {
	__s32 moved;  /* bytes that the program put in front of the frame, negative for those it took away */
	__u32 length; /* of `words` in bytes, 0: there is nothing to be put in order */
	__u32 place;  /* of the destination, by bytes from the frame's start */
	__u32 count;  /* of destinations, 0: it stays */
	__u32 first;  /* of them, an IPv4 address in host order */
	__u32 turn;
	__u64 words[WORDS]; /* with which the frame begins */
};

BPF_TABLE("array", __u32, struct restore, restores, 1);

static __always_inline void next_destination(void *start, void *end, struct restore *restore)
{
	__be32 *destination = start + (restore->place & PLACE);

	if ((void *)(destination + 1) <= end)
		*destination = bpf_htonl(restore->first + restore->turn++ * SCATTER % restore->count);
}

static __always_inline int process_underlay(context *ctx)
{
	__u32 only = 0;
	struct restore *restore = restores.lookup(&only);
	void *start, *end;

	if (!restore || !restore->length)
		return XDP_DROP;
	if (restore->moved && bpf_xdp_adjust_head(ctx, restore->moved))
		return XDP_ABORTED;
	start = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
#pragma unroll
	for (__u32 i = 0; i < WORDS; i++) {
		__u64 *word = start + i * sizeof(*word);

		if (i * sizeof(*word) >= restore->length || (void *)(word + 1) > end)
			break;
		*word = restore->words[i];
	}
	if (restore->count)
		next_destination(start, end, restore);
	return XDP_DROP;
}

#endif
