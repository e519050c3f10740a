/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef DROPLET_DIRECT_H
#define DROPLET_DIRECT_H

/*
 * Ticks since a path was heard on. Negative, which is fresh, when another CPU hears on it meanwhile. The tick is one
 * load, where reading a clock would be two calls at every packet.
 */
static __always_inline __s64 age_of(const struct direct_path *path)
{
	return bpf_jiffies64() - path->confirmed_tick;
}

#endif
