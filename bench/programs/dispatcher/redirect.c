// SPDX-License-Identifier: GPL-2.0-only
/* The last program of a chain, or the only one without a dispatcher. bench/dispatcher.py defines LEAVES_BY. */
#include <linux/bpf.h>

static long (*bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;

__attribute__((section("xdp"), used)) int redirect(struct xdp_md *ctx)
{
	return bpf_redirect(LEAVES_BY, 0);
}
