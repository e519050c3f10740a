// SPDX-License-Identifier: GPL-2.0-only
/* As transit_xdp.c beside it, in the other direction. */
#include "lib/kernel.h"

int transit_agent(struct xdp_md *ctx)
{
	return redirect_by(1);
}
