// SPDX-License-Identifier: GPL-2.0-only
/* What libxdp's dispatcher calls first: the next program follows, as always behind XDP_PASS. */
#include <linux/bpf.h>

__attribute__((section("xdp"), used)) int noop(struct xdp_md *ctx)
{
	return XDP_PASS;
}
