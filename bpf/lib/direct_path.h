/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Direct paths: from a delivered packet, on which droplet its sender is. A path in use is written once in
 * DIRECT_RENEW, not at every packet.
 */
#ifndef DROPLET_DIRECT_PATH_H
#define DROPLET_DIRECT_PATH_H

#include "lib/route.h"

/*
 * Ticks since a path was heard on. Negative, which is fresh, when another CPU hears on it meanwhile. The tick is one
 * load, where reading a clock would be two calls at every packet.
 */
static __always_inline __s64 age_of(const struct direct_path *path)
{
	return bpf_jiffies64() - path->confirmed_tick;
}

/*
 * What came direct to an endpoint of a pinned network came from that very network: from elsewhere it would have come by
 * a divider, with RTS.
 */
static __always_inline __u64 path_flags(const struct tunnel *tunnel, const struct endpoint *receiver)
{
	if (tunnel->flags & TUNNEL_RETURNS)
		return tunnel->rts & RTS_PINNED ? PATH_PINNED : 0;
	return receiver->flags & ENDPOINT_PINNED ? PATH_PINNED : 0;
}

static __always_inline enum outcome learn_new(const struct tunnel *tunnel, struct overlay_key *from,
					      const struct endpoint *receiver)
{
	struct direct_path path = {tunnel->origin, path_flags(tunnel, receiver), bpf_ktime_get_coarse_ns(),
				   bpf_jiffies64()};
	struct endpoint *endpoint = endpoints.lookup(from);

	/* What an endpoint of this host sent comes back by a divider when its network's routing asks for that. */
	if (endpoint && endpoint->ifindex)
		return same_address(&endpoint->host, &path.host) ? GO_ON : SOURCE_ELSEWHERE;
	if (endpoint && !same_address(&endpoint->host, &path.host)) /* closed: documents know better than packets */
		return GO_ON;
	/* Closed for the path, open for the packet: it came from a known droplet, which may know more than we do. */
	if (tunnel->flags & TUNNEL_RETURNS && !droplets.lookup(&path.host))
		return GO_ON;
	/* Closed: a gateway is on every droplet, and a broadcast address on none; a path would lead packets there. */
	if (is_a_gateway(from) || is_subnet_broadcast(from))
		return GO_ON;
	direct.update(from, &path);
	return GO_ON;
}

static __always_inline bool confirmed_lately(struct overlay_key *from, const struct address *host)
{
	struct direct_path *path = direct.lookup(from);

	/* Closed: what is not known as fresh is looked at in full. */
	return path && same_address(&path->host, host) && age_of(path) < DIRECT_RENEW;
}

static __always_inline enum outcome learn(const struct tunnel *tunnel, struct overlay_key *from,
					  const struct endpoint *receiver)
{
	struct endpoint *endpoint;

	/* VXLAN does not say whether a packet came direct, nor does a peer that speaks it understand Geneve. */
	if (tunnel->flags & TUNNEL_VXLAN)
		return GO_ON;
	if (tunnel->rts & RTS_UNLEARNT) {
		endpoint = endpoints.lookup(from);
		return endpoint && endpoint->ifindex ? SOURCE_ELSEWHERE : GO_ON; /* open: it may be anywhere else */
	}
	if (tunnel->flags & (TUNNEL_RETURNS | TUNNEL_UNSUMMED) && confirmed_lately(from, &tunnel->origin))
		return GO_ON;
	return learn_new(tunnel, from, receiver);
}

#endif
