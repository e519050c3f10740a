/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * XDP: how the core accesses a frame. hooks/tc.h has the same functions for tc; everything else is compiled for either.
 *
 * adjust_head() and set_frame_length() invalidate all pointers into the frame: call frame_start() and frame_end()
 * again, and keep parsed values in scalars.
 */
#ifndef DROPLET_HOOK_XDP_H
#define DROPLET_HOOK_XDP_H

#include "outcomes.h"
#include "lib/kernel.h"

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
	return ctx->ingress_ifindex;
}

/* A VLAN tag that the kernel removed from the frame, with TAG_REMOVED set; 0 if it removed none: never here. */
static __always_inline __u32 removed_tag(context *ctx)
{
	return 0;
}

/* Removes `delta` bytes at the front, or adds -delta; negative if there is no headroom. */
static __always_inline long adjust_head(context *ctx, int delta)
{
	return bpf_xdp_adjust_head(ctx, delta);
}

/* Truncates or extends the frame to `length`; negative if there is no tailroom. */
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
