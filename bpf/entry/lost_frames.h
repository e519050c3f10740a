/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Counts frames that the kernel drops after our verdict: redirects that it refuses, and frames that a device does not
 * accept. One program for each raw tracepoint (include/trace/events/xdp.h); they change nothing.
 *
 * Tracepoints see every XDP program of the machine. Ours are recognised by the id of the program if the tracepoint has
 * it, else by the receiving interface and its network namespace. The agent reads the offsets of these fields from the
 * kernel's BTF and writes them to kernel_layouts.
 */
#ifndef DROPLET_LOST_FRAMES_H
#define DROPLET_LOST_FRAMES_H

#include "lib/endpoint.h"
#include "maps.h"

typedef struct bpf_raw_tracepoint_args event;

static __always_inline __u64 read_pointer(__u64 address)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)(long)address);
	return value;
}

static __always_inline __u32 read_number(__u64 address)
{
	__u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)(long)address);
	return value;
}

/* NULL, and closed, until the agent has filled it. */
static __always_inline struct kernel_layout *layout_of_kernel(void)
{
	__u32 first = 0;
	struct kernel_layout *layout = kernel_layouts.lookup(&first);

	return layout && layout->net_cookie ? layout : 0;
}

static __always_inline int is_watched(__u32 kind, __u32 id)
{
	struct watched_key key = {.kind = kind, .id = id};

	return watched.lookup(&key) != 0;
}

static __always_inline int is_own_program(const struct kernel_layout *layout, __u64 program)
{
	__u64 aux = read_pointer(program + layout->program_aux);

	return is_watched(WATCHED_PROGRAM, read_number(aux + layout->aux_id));
}

static __always_inline __u32 ifindex_of_device(const struct kernel_layout *layout, __u64 device)
{
	return read_number(device + layout->device_ifindex);
}

static __always_inline int is_own_device(const struct kernel_layout *layout, __u64 device)
{
	__u64 net = read_pointer(device + layout->device_net);
	__u32 ifindex = ifindex_of_device(layout, device);

	if (read_pointer(net + layout->net_cookie) != layout->cookie)
		return 0;
	return find_interface(ifindex) || is_watched(WATCHED_INTERFACE, ifindex);
}

/* If the map is full, counts under the empty key, which the agent creates. */
static __always_inline void count_failure(__u32 kind, __u32 error, __u32 ifindex, __u32 frames)
{
	struct failure_key key = {.kind = kind, .error = error, .ifindex = ifindex}, overflow = {};
	struct failure_count *found = failures.lookup(&key), none = {};

	if (!found) {
		failures.insert(&key, &none);
		found = failures.lookup(&key);
	}
	if (!found)
		found = failures.lookup(&overflow);
	if (found)
		found->frames += frames;
}

/* xdp_redirect_err: device, program, target, error, map type, map id, index (the target ifindex). */
int on_redirect_error(event *ctx)
{
	struct kernel_layout *layout = layout_of_kernel();

	if (layout && is_own_program(layout, ctx->args[1]))
		count_failure(FAILURE_REDIRECT, -(__u32)ctx->args[3], ctx->args[6], 1);
	return 0;
}

/* xdp_exception: device, program, verdict. In generic mode the device is the one that did not accept the frame. */
int on_exception(event *ctx)
{
	struct kernel_layout *layout = layout_of_kernel();

	if (layout && is_own_program(layout, ctx->args[1]))
		count_failure(FAILURE_EXCEPTION, 0, ifindex_of_device(layout, ctx->args[0]), 1);
	return 0;
}

/* xdp_devmap_xmit: receiving device, sending device, frames sent, frames dropped, error. */
int on_transmit(event *ctx)
{
	struct kernel_layout *layout;

	if ((int)ctx->args[3] <= 0) /* nearly always: this runs for every batch of redirected frames */
		return 0;
	layout = layout_of_kernel();
	if (layout && is_own_device(layout, ctx->args[0]))
		count_failure(FAILURE_TRANSMIT, -(__u32)ctx->args[4], ifindex_of_device(layout, ctx->args[1]),
			      ctx->args[3]);
	return 0;
}

#endif
