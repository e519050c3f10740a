// SPDX-License-Identifier: GPL-2.0-only
/* Redirects every frame as it is: the harness, the redirect and the far end together, which every contestant pays. */
#include "lib/kernel.h"

BPF_TABLE("array", __u32, __u32, leave_by, 2);

static __always_inline int redirect_by(__u32 slot)
{
	__u32 *ifindex = leave_by.lookup(&slot);

	return ifindex ? bpf_redirect(*ifindex, 0) : XDP_ABORTED;
}

int transit_xdp(struct xdp_md *ctx)
{
	return redirect_by(0);
}
