/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The bare loop: answers every packet of an AF_XDP socket with "go on", on the rings that a function in Python has. The
 * limit that the library is measured against. bench/functions.py compiles it as a shared library.
 */
#include <linux/if_xdp.h>
#include <linux/types.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "../../bpf/lib/function_meta.h"

#define BATCH 64

struct ring {
	uint32_t *producer, *consumer, *flags;
	void *entries;
	uint32_t mask;
};

struct loop {
	int fd;
	uint8_t *umem;
	struct ring fill, rx, tx, completion;
};

static int map_ring(struct ring *ring, int fd, uint64_t page, const struct xdp_ring_offset *at, uint32_t size,
		    uint32_t entry)
{
	uint8_t *base =
		mmap(NULL, at->desc + size * entry, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, page);

	if (base == MAP_FAILED)
		return -1;
	ring->producer = (uint32_t *)(base + at->producer);
	ring->consumer = (uint32_t *)(base + at->consumer);
	ring->flags = (uint32_t *)(base + at->flags);
	ring->entries = base + at->desc;
	ring->mask = size - 1;
	return 0;
}

/* Give the first half of the frames to the kernel; as many as the ring has entries. */
struct loop *loop_open(int fd, int memory, uint64_t length, uint32_t frame_size, uint32_t size)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	struct xdp_mmap_offsets offsets;
	socklen_t room = sizeof(offsets);
	uint32_t i;

	if (!loop || getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &room))
		return NULL;
	loop->fd = fd;
	loop->umem = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	if (loop->umem == MAP_FAILED || map_ring(&loop->fill, fd, XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, size, 8) ||
	    map_ring(&loop->completion, fd, XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr, size, 8) ||
	    map_ring(&loop->rx, fd, XDP_PGOFF_RX_RING, &offsets.rx, size, sizeof(struct xdp_desc)) ||
	    map_ring(&loop->tx, fd, XDP_PGOFF_TX_RING, &offsets.tx, size, sizeof(struct xdp_desc)))
		return NULL;
	for (i = 0; i < size; i++)
		((uint64_t *)loop->fill.entries)[i] = (uint64_t)i * frame_size;
	__atomic_store_n(loop->fill.producer, size, __ATOMIC_RELEASE);
	return loop;
}

static void recycle(struct loop *loop)
{
	uint32_t from = *loop->completion.consumer, to = *loop->fill.producer;
	uint32_t end = __atomic_load_n(loop->completion.producer, __ATOMIC_ACQUIRE);

	while (from != end)
		((uint64_t *)loop->fill.entries)[to++ & loop->fill.mask] =
			((uint64_t *)loop->completion.entries)[from++ & loop->completion.mask];
	__atomic_store_n(loop->completion.consumer, from, __ATOMIC_RELEASE);
	__atomic_store_n(loop->fill.producer, to, __ATOMIC_RELEASE);
}

static void wake(struct loop *loop)
{
	while (__atomic_load_n(loop->tx.consumer, __ATOMIC_ACQUIRE) != *loop->tx.producer)
		sendto(loop->fd, NULL, 0, MSG_DONTWAIT, NULL, 0);
}

/* Answer so many packets. Each frame is on one ring at a time, so no ring can be full. */
void loop_serve(struct loop *loop, uint64_t packets)
{
	while (packets) {
		uint32_t from = *loop->rx.consumer, to = *loop->tx.producer;
		uint32_t count = __atomic_load_n(loop->rx.producer, __ATOMIC_ACQUIRE) - from;
		uint32_t i;

		recycle(loop);
		if (count > BATCH)
			count = BATCH;
		if (count > packets)
			count = packets;
		for (i = 0; i < count; i++) {
			struct xdp_desc *entry = (struct xdp_desc *)loop->rx.entries + (from++ & loop->rx.mask);
			struct function_meta *meta = (struct function_meta *)(loop->umem + entry->addr);

			meta->verdict = FUNCTION_GO_ON;
			meta->user_reason = 0;
			((struct xdp_desc *)loop->tx.entries)[to++ & loop->tx.mask] = *entry;
		}
		if (!count)
			continue;
		__atomic_store_n(loop->rx.consumer, from, __ATOMIC_RELEASE);
		__atomic_store_n(loop->tx.producer, to, __ATOMIC_RELEASE);
		wake(loop);
		packets -= count;
	}
}
