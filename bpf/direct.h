/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef DROPLET_DIRECT_H
#define DROPLET_DIRECT_H

/* Nanoseconds since a path was heard on. Negative, which is fresh, when another CPU's clock was a tick ahead. */
static __always_inline __s64 age_of(const struct direct_path *path, __u64 now)
{
	return now - path->confirmed_ns;
}

#endif
