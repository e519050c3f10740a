/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * XDP: how the core accesses a frame. hooks/tc.h has the same functions for tc; everything else is compiled for either.
 *
 * Everything that returns `long` invalidates all pointers into the frame, and is negative if it failed: call
 * frame_start() and frame_end() again, and keep parsed values in scalars.
 */
#ifndef DROPLET_HOOK_XDP_H
#define DROPLET_HOOK_XDP_H

#include "outcomes.h"
#include "lib/kernel.h"

#define HAS_GSO	    0 /* a frame is one packet */
#define INLINE_TAGS 1 /* VLAN tags are written into the frame */

typedef struct xdp_md context;

static __always_inline void *frame_start(context *ctx)
{
	return (void *)(long)ctx->data;
}

static __always_inline void *frame_end(context *ctx)
{
	return (void *)(long)ctx->data_end;
}

/* Length from the Ethernet header. Frames have no fragments: at most a page, in generic mode up to the MTU. */
static __always_inline __u32 frame_length(context *ctx)
{
	return ctx->data_end - ctx->data;
}

static __always_inline __u32 ingress_ifindex(context *ctx)
{
	__u32 ifindex;

	/* else clang may compute the field's address and keep it, and the verifier allows no such pointer */
	asm("%0 = *(u32 *)(%1 + %2)"
	    : "=r"(ifindex)
	    : "r"(ctx), "i"(__builtin_offsetof(struct xdp_md, ingress_ifindex)));
	return ifindex;
}

/* A VLAN tag that the kernel removed from the frame, with TAG_REMOVED set; 0 if it removed none: never here. */
static __always_inline __u32 removed_tag(context *ctx)
{
	return 0;
}

/* How many packets the frame stands for, as far as that is known without parsing it. */
static __always_inline __u32 frame_packets(context *ctx)
{
	return 1;
}

/* Payload bytes of each packet that the frame will be cut into; 0 if it is one packet. */
static __always_inline __u32 segment_bytes(context *ctx)
{
	return 0;
}

/* Makes all bytes of the frame readable through frame_start(). */
static __always_inline long read_whole(context *ctx)
{
	return 0;
}

/* Adds `bytes` of outer headers, which the caller writes, in front of an inner frame. */
static __always_inline long add_outer(context *ctx, __u32 bytes, bool ipv6, bool offloads)
{
	return bpf_xdp_adjust_head(ctx, -(int)bytes);
}

/* Adds bytes in front of all, which are no headers. */
static __always_inline long add_front(context *ctx, __u32 bytes)
{
	return bpf_xdp_adjust_head(ctx, -(int)bytes);
}

/* Makes space for other outer headers of a tunnel packet: removes `delta` bytes at the front, or adds -delta. */
static __always_inline long resize_outer(context *ctx, int delta, bool ipv6)
{
	return bpf_xdp_adjust_head(ctx, delta);
}

/* Removes the outer headers in front of an inner frame. `summed`: they had a UDP checksum. */
static __always_inline long remove_outer(context *ctx, __u32 bytes, bool summed)
{
	return bpf_xdp_adjust_head(ctx, bytes);
}

/* Puts a VLAN tag, in network byte order, on a frame, if tags are not written into it. */
static __always_inline long push_tag(context *ctx, __be16 vlan)
{
	return 0;
}

/* Makes space behind the Ethernet header of a frame whose headers are written anew: removes `delta` bytes, or adds. */
static __always_inline long resize_front(context *ctx, int delta)
{
	return bpf_xdp_adjust_head(ctx, delta);
}

/* Truncates or extends the frame to `length`. */
static __always_inline long set_frame_length(context *ctx, __u32 length)
{
	__u32 now = frame_length(ctx);

	asm volatile("" : "+r"(now)); /* else clang would compute it from pointers, which the verifier rejects */
	return bpf_xdp_adjust_tail(ctx, (int)length - (int)now);
}

/*
 * The verdict for an outcome; `ifindex` is the target of answered and forwarded frames. Answers are redirected to the
 * interface they came from: XDP_TX on a veth does not wake a peer without an XDP program (veth_xdp_flush()).
 */
static __always_inline int verdict(enum outcome outcome, __u32 ifindex)
{
	if (outcome >= FIRST_DROPPED)
		return XDP_DROP;
	return outcome >= FIRST_ANSWERED ? bpf_redirect(ifindex, 0) : XDP_PASS;
}

#endif
