/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Direct paths: learns the droplet of a sender from a delivered packet. A path in use is confirmed in the map once in
 * DIRECT_RENEW, not for every packet.
 */
#ifndef DROPLET_DIRECT_PATH_H
#define DROPLET_DIRECT_PATH_H

#include "lib/route.h"

/*
 * Ticks since a path was confirmed; negative, which is fresh, if another CPU just confirmed it. Reading the tick is one
 * load, reading a clock would be two calls.
 */
static __always_inline __s64 path_age(const struct direct_path *path)
{
	return bpf_jiffies64() - path->confirmed_tick;
}

/*
 * A packet without RTS to an endpoint of a pinned network comes from the same network: one from another network would
 * have passed a divider.
 */
static __always_inline __u64 path_flags(const struct tunnel *tunnel, const struct endpoint *receiver)
{
	if (tunnel->flags & TUNNEL_RTS)
		return tunnel->rts & RTS_PINNED ? PATH_PINNED : 0;
	return receiver->flags & ENDPOINT_PINNED ? PATH_PINNED : 0;
}

static __always_inline enum outcome update_path(const struct tunnel *tunnel, struct overlay_key *from,
						const struct endpoint *receiver)
{
	struct direct_path path = {tunnel->origin, path_flags(tunnel, receiver), bpf_ktime_get_coarse_ns(),
				   bpf_jiffies64()};
	struct endpoint *endpoint = endpoints.lookup(from);

	/* A divider may send a packet back to its own host if the networks' routing requires that. */
	if (endpoint && endpoint->ifindex)
		return same_address(&endpoint->host, &path.host) ? CONTINUE : SOURCE_ELSEWHERE;
	if (endpoint && !same_address(&endpoint->host, &path.host)) /* closed: documents take precedence */
		return CONTINUE;
	/* Closed for the path, open for the packet: a known droplet sent it, which may know the origin. */
	if (tunnel->flags & TUNNEL_RTS && !droplets.lookup(&path.host))
		return CONTINUE;
	/* Closed: a gateway is on every droplet, a broadcast address on none. */
	if (is_gateway_address(from) || is_subnet_broadcast(from))
		return CONTINUE;
	direct.update(from, &path);
	return CONTINUE;
}

static __always_inline bool recently_confirmed(struct overlay_key *from, const struct address *host)
{
	struct direct_path *path = direct.lookup(from);

	/* Closed: without a fresh path the packet gets all checks. */
	return path && same_address(&path->host, host) && path_age(path) < DIRECT_RENEW;
}

static __always_inline enum outcome learn_path(const struct tunnel *tunnel, struct overlay_key *from,
					       const struct endpoint *receiver)
{
	struct endpoint *endpoint;

	/* VXLAN does not show whether a packet came direct, and a VXLAN peer does not understand Geneve. */
	if (tunnel->flags & TUNNEL_VXLAN)
		return CONTINUE;
	if (tunnel->rts & RTS_UNLEARNT) {
		endpoint = endpoints.lookup(from);
		return endpoint && endpoint->ifindex ? SOURCE_ELSEWHERE
						     : CONTINUE; /* open: it may be on any other host */
	}
	if (tunnel->flags & (TUNNEL_RTS | TUNNEL_NO_CHECKSUM) && recently_confirmed(from, &tunnel->origin))
		return CONTINUE;
	return update_path(tunnel, from, receiver);
}

#endif
