/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * tc: how the core accesses a frame; see hooks/xdp.h. GSO packets exceed every MTU and are refused as such.
 */
#ifndef DROPLET_HOOK_TC_H
#define DROPLET_HOOK_TC_H

#include <linux/pkt_cls.h>

#include "constants.h"
#include "outcomes.h"
#include "lib/kernel.h"

#define DECAP_L3_IPV4 (1ULL << 7) /* BPF_F_ADJ_ROOM_DECAP_L3_IPV4, since Linux 6.3 */
#define DECAP_L3_IPV6 (1ULL << 8)

typedef struct __sk_buff context;

static __always_inline void *frame_start(context *ctx)
{
	return (void *)(long)ctx->data;
}

static __always_inline void *frame_end(context *ctx)
{
	return (void *)(long)ctx->data_end;
}

static __always_inline __u32 frame_length(context *ctx)
{
	return ctx->len;
}

static __always_inline __u32 ingress_ifindex(context *ctx)
{
	return ctx->ifindex;
}

/* Makes the whole frame readable through frame_start(): UDP checksums cover all of it. */
static __always_inline void linearize(context *ctx)
{
	if (frame_end(ctx) - frame_start(ctx) < ctx->len)
		bpf_skb_pull_data(ctx, ctx->len);
}

/* The kernel removes VLAN tags from frames before tc sees them. */
static __always_inline __u32 removed_tag(context *ctx)
{
	return ctx->vlan_present ? TAG_REMOVED | ctx->vlan_tci : 0;
}

/*
 * Shrinking removes bytes behind the Ethernet header, so that header is overwritten by the bytes that are to be in
 * front. The protocol of the packet changes where the inner one is of another family than the outer one.
 */
static __always_inline long shrink_head(context *ctx, __u32 bytes)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
	struct ethhdr inner;
	bool ipv6;

	if (bpf_skb_load_bytes(ctx, bytes, &inner, sizeof(inner)))
		return -1;
	ipv6 = inner.h_proto == bpf_htons(ETH_P_IPV6);
	if (ipv6 != (ctx->protocol == bpf_htons(ETH_P_IPV6)))
		flags |= ipv6 ? DECAP_L3_IPV6 : DECAP_L3_IPV4;
	if (bpf_skb_adjust_room(ctx, -(int)bytes, BPF_ADJ_ROOM_MAC, flags))
		return -1;
	return bpf_skb_store_bytes(ctx, 0, &inner, sizeof(inner), 0);
}

/* Removes `delta` bytes at the front, or adds -delta, and a VLAN tag that the kernel removed; negative if it cannot. */
static __always_inline long adjust_head(context *ctx, int delta)
{
	if (ctx->vlan_present && bpf_skb_vlan_pop(ctx))
		return -1;
	if (delta > 0)
		return shrink_head(ctx, delta);
	return delta ? bpf_skb_change_head(ctx, -delta, 0) : 0;
}

/* Truncates or extends the frame to `length`; negative if it cannot. */
static __always_inline long set_frame_length(context *ctx, __u32 length)
{
	if (bpf_skb_change_tail(ctx, length, 0))
		return -1;
	return bpf_skb_pull_data(ctx, length);
}

/*
 * The verdict for an outcome; `ifindex` is the target of answered and forwarded frames. Frames that pass go on to other
 * programs of the hook, and then to the host's network stack.
 */
static __always_inline int verdict(enum outcome outcome, __u32 ifindex)
{
	if (outcome >= FIRST_DROPPED)
		return TC_ACT_SHOT;
	return outcome >= FIRST_ANSWERED ? bpf_redirect(ifindex, 0) : TC_ACT_UNSPEC;
}

#endif
