/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * tc: how the core accesses a frame; see hooks/xdp.h. A frame may be a GSO packet: several packets with one set of
 * headers, which the last device cuts into segments. Its payload, and that of any long frame, may be in pages that
 * frame_end() does not cover. A checksum may still have to be completed by a device (CHECKSUM_PARTIAL).
 *
 * skb->encapsulation is set in tunnel packets that a tc program of this machine sent, and no helper clears it: such a
 * frame cannot be encapsulated again (EALREADY) and bpf_skb_change_tail() refuses it (net/core/filter.c).
 */
#ifndef DROPLET_HOOK_TC_H
#define DROPLET_HOOK_TC_H

#include <linux/pkt_cls.h>

#include "constants.h"
#include "outcomes.h"
#include "lib/kernel.h"
#include "lib/verifier.h"

#define HAS_GSO	    1 /* before maps.h, which has a map for it */
#define INLINE_TAGS 0 /* VLAN tags are metadata */

#include "maps.h"

#define HEADERS_READ 256U  /* bytes that are made readable: all headers, but for long options */
#define MAX_RESIZE   4095U /* of one bpf_skb_adjust_room() */

#define DECAP_L3_IPV4 (1ULL << 7) /* BPF_F_ADJ_ROOM_DECAP_L3_IPV4, since Linux 6.3 */
#define DECAP_L3_IPV6 (1ULL << 8)
#define KEEP_GSO      (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET)
#define GENEVE_INSIDE                                                                                                  \
	(BPF_F_ADJ_ROOM_ENCAP_L4_UDP | (1ULL << 6) /* ENCAP_L2_ETH, since Linux 5.13 */ |                              \
	 BPF_F_ADJ_ROOM_ENCAP_L2(14ULL))

typedef struct __sk_buff context;

/*
 * Reads a field of the context. Else clang would compute the field's address and keep it, and the verifier allows no
 * such pointer.
 */
#define FIELD(ctx, field)                                                                                              \
	({                                                                                                             \
		__u32 field_value;                                                                                     \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                                                                  \
			     : "=r"(field_value)                                                                       \
			     : "r"(ctx), "i"(__builtin_offsetof(struct __sk_buff, field)));                            \
		field_value;                                                                                           \
	})

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
	return FIELD(ctx, len);
}

static __always_inline __u32 ingress_ifindex(context *ctx)
{
	return FIELD(ctx, ifindex);
}

static __always_inline __u32 frame_packets(context *ctx)
{
	return FIELD(ctx, gso_size) && FIELD(ctx, gso_segs) ? FIELD(ctx, gso_segs) : 1;
}

static __always_inline __u32 segment_bytes(context *ctx)
{
	return FIELD(ctx, gso_size);
}

static __always_inline long read_bytes(context *ctx, __u32 bytes)
{
	__u32 length = FIELD(ctx, len);

	if (length > bytes)
		length = bytes;
	if (frame_end(ctx) - frame_start(ctx) >= length)
		return 0;
	return bpf_skb_pull_data(ctx, length);
}

/* Makes the headers readable; called before all others. */
static __always_inline void read_headers(context *ctx)
{
	read_bytes(ctx, HEADERS_READ);
}

static __always_inline long read_whole(context *ctx)
{
	return FIELD(ctx, gso_size) ? -1 : read_bytes(ctx, FIELD(ctx, len));
}

/* The kernel removes VLAN tags before tc, those of 802.1ad too, which are of no VLAN of a droplet. */
static __always_inline __u32 removed_tag(context *ctx)
{
	if (!FIELD(ctx, vlan_present))
		return 0;
	return TAG_REMOVED | (FIELD(ctx, vlan_proto) == bpf_htons(ETH_P_8021Q) ? FIELD(ctx, vlan_tci) : VLAN_ID);
}

/*
 * `offloads`: a device may have to complete the inner checksum or to cut the packet, and must know that it is in a
 * tunnel. An endpoint's own tunnel is known already.
 */
static __always_inline long add_outer(context *ctx, __u32 bytes, bool ipv6, bool offloads)
{
	__u64 flags = KEEP_GSO | GENEVE_INSIDE | (ipv6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4);
	struct ethhdr inner;

	if (!offloads)
		return bpf_skb_change_head(ctx, bytes, 0);
	if (bpf_skb_load_bytes(ctx, 0, &inner, sizeof(inner)))
		return -1;
	if (bpf_skb_adjust_room(ctx, bytes, BPF_ADJ_ROOM_MAC, flags))
		return FIELD(ctx, gso_size) ? -1 : bpf_skb_change_head(ctx, bytes, 0);
	return bpf_skb_store_bytes(ctx, bytes, &inner, sizeof(inner), 0);
}

static __always_inline long add_front(context *ctx, __u32 bytes)
{
	return bpf_skb_change_head(ctx, bytes, 0);
}

static __always_inline bool is_ipv6_frame(context *ctx)
{
	return FIELD(ctx, protocol) == bpf_htons(ETH_P_IPV6);
}

/* Removes bytes behind the Ethernet header. `ipv6`: which family then follows; before Linux 6.3 it stays unknown. */
static __always_inline long shrink(context *ctx, __u32 bytes, bool ipv6)
{
	__u64 family = ipv6 ? DECAP_L3_IPV6 : DECAP_L3_IPV4;

	if (ipv6 != is_ipv6_frame(ctx) && !bpf_skb_adjust_room(ctx, -(int)bytes, BPF_ADJ_ROOM_MAC, KEEP_GSO | family))
		return 0;
	return bpf_skb_adjust_room(ctx, -(int)bytes, BPF_ADJ_ROOM_MAC, KEEP_GSO);
}

static __always_inline long pop_tag(context *ctx)
{
	return FIELD(ctx, vlan_present) ? bpf_skb_vlan_pop(ctx) : 0;
}

static __always_inline long push_tag(context *ctx, __be16 vlan)
{
	return bpf_skb_vlan_push(ctx, bpf_htons(ETH_P_8021Q), bpf_ntohs(vlan));
}

/* Changes the family by a byte that is added and removed again. */
static __always_inline long resize_outer(context *ctx, int delta, bool ipv6)
{
	bool other = ipv6 != is_ipv6_frame(ctx);
	int added = (other ? 1 : 0) - delta;

	if (pop_tag(ctx))
		return -1;
	if (delta > 0)
		return shrink(ctx, delta, ipv6);
	if (added && bpf_skb_adjust_room(ctx, added, BPF_ADJ_ROOM_MAC, KEEP_GSO))
		return -1;
	return other ? shrink(ctx, 1, ipv6) : 0;
}

static __always_inline long remove_outer(context *ctx, __u32 bytes, bool summed)
{
	struct ethhdr inner;

	if (pop_tag(ctx) || bpf_skb_load_bytes(ctx, bytes, &inner, sizeof(inner)))
		return -1;
	if (shrink(ctx, bytes, inner.h_proto == bpf_htons(ETH_P_IPV6)))
		return -1;
	if (summed) /* else the checksum that a card verified is the inner one */
		bpf_csum_level(ctx, BPF_CSUM_LEVEL_DEC);
	return bpf_skb_store_bytes(ctx, 0, &inner, sizeof(inner), 0);
}

static __always_inline long resize_front(context *ctx, int delta)
{
	if (pop_tag(ctx))
		return -1;
	if (delta > 0)
		return bpf_skb_adjust_room(ctx, -delta, BPF_ADJ_ROOM_MAC, KEEP_GSO);
	return delta ? bpf_skb_change_head(ctx, -delta, 0) : 0;
}

/*
 * Removes bytes in front instead of at the end, and writes the rest again: for frames that bpf_skb_change_tail()
 * refuses.
 */
static __always_inline long shorten(context *ctx, __u32 length)
{
	__u32 only = 0, rest = FIELD(ctx, len) - length, part;
	struct scratch *scratch = scratches.lookup(&only);

	if (!scratch || FIELD(ctx, gso_size) || length > FIELD(ctx, len) || !length || length > sizeof(scratch->bytes))
		return -1;
	length = bounded(length - 1, sizeof(scratch->bytes) - 1) + 1;
	if (bpf_skb_load_bytes(ctx, 0, scratch->bytes, length))
		return -1;
	for (int i = 0; i < 3; i++) {
		part = rest < MAX_RESIZE ? rest : MAX_RESIZE;
		if (part && bpf_skb_adjust_room(ctx, -(int)part, BPF_ADJ_ROOM_MAC, KEEP_GSO))
			return -1;
		rest -= part;
	}
	return rest ? -1 : bpf_skb_store_bytes(ctx, 0, scratch->bytes, length, 0);
}

static __always_inline long set_frame_length(context *ctx, __u32 length)
{
	if (bpf_skb_change_tail(ctx, length, 0) && shorten(ctx, length))
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
