/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * All that touches a frame's context. The rest of the code knows frames only by these functions, so that it can be
 * compiled for another hook than XDP.
 *
 * After move_start() or set_length() every pointer into the frame is void: take frame_start() and frame_end() again,
 * and carry values over in scalars.
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

/* Bytes from the Ethernet header on. A frame without fragments: at most a page, in generic mode what the MTU says. */
static __always_inline __u32 frame_length(context *ctx)
{
	return ctx->data_end - ctx->data;
}

static __always_inline __u32 arrived_on(context *ctx)
{
	return ctx->ingress_ifindex;
}

/* Cut `delta` bytes off the front, or make room for -delta; 0, or negative when there is no room. */
static __always_inline long move_start(context *ctx, int delta)
{
	return bpf_xdp_adjust_head(ctx, delta);
}

/* Cut off or add bytes at the end until the frame has `length`; 0, or negative when there is no room. */
static __always_inline long set_length(context *ctx, __u32 length)
{
	__u32 now = frame_length(ctx);

	asm volatile(""
		     : "+r"(now)); /* else clang would take the length from the pointer, which the verifier forbids */
	return bpf_xdp_adjust_tail(ctx, (int)length - (int)now);
}

/*
 * The hook's verdict for an outcome; `ifindex` is where an answered or forwarded frame leaves. Answers are redirected
 * to where they came from, since veth does not wake the receiver of an XDP_TX that has no XDP program
 * (veth_xdp_flush()).
 */
static __always_inline int verdict(enum outcome outcome, __u32 ifindex)
{
	if (outcome >= FIRST_DROPPED)
		return XDP_DROP;
	return outcome >= FIRST_ANSWERED ? bpf_redirect(ifindex, 0) : XDP_PASS;
}

#endif
