/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Direct paths: learns the droplet of a sender from a delivered packet. A path in use is confirmed in the map once in
 * DIRECT_RENEW, not for every packet.
 */
#ifndef DROPLET_DIRECT_PATH_H
#define DROPLET_DIRECT_PATH_H

#include "lib/cache.h"
#include "lib/route.h"

/*
 * Ticks since a path was confirmed; negative, which is fresh, if another CPU just confirmed it. Reading the tick is one
 * load, reading a clock would be two calls.
 */
static __always_inline __s64 path_age(const struct direct_path *path)
{
	return bpf_jiffies64() - path->confirmed_tick;
}

struct found_path {
	struct address *host; /* NULL: no path was confirmed within DIRECT_LIFETIME */
	__u64 flags;	      /* PATH_* */
	bool recent;	      /* confirmed within DIRECT_RENEW */
};

static __always_inline void cache_path(struct cached_path *copy, struct overlay_key *key, struct direct_path *path,
				       __u64 now)
{
	if (is_taken(copy->generation, now, copy->expires_tick, &copy->key, key))
		return;
	copy->key = *key;
	copy->flags = path->flags;
	copy->host = path->host;
	copy->generation = now;
	copy->expires_tick = path->confirmed_tick + CACHE_LIFETIME;
	if (direct.lookup(key) != path) /* closed: the kernel has reused the element */
		copy->expires_tick = EXPIRED;
}

/* The direct path to an address; `key` is aligned to 8. */
static __always_inline struct found_path find_path(struct overlay_key *key)
{
	__u32 only = 0, index = cache_index(key, CACHED_PATHS_BITS);
	struct path_cache *cache = path_caches.lookup(&only);
	struct cached_path *copy = cache ? &cache->path[bounded(index, CACHED_PATHS - 1)] : 0;
	__u64 now = generation(GENERATION_PATHS);
	struct found_path found = {};
	struct direct_path *path;

	if (copy && copy->generation == now && same_key(&copy->key, key) && !is_over(copy->expires_tick)) {
		found.host = &copy->host;
		found.flags = copy->flags;
		found.recent = true;
		return found;
	}
	path = direct.lookup(key);
	if (!path || path_age(path) >= DIRECT_LIFETIME)
		return found;
	found.host = &path->host;
	found.flags = path->flags;
	found.recent = path_age(path) < DIRECT_RENEW;
	if (copy && found.recent)
		cache_path(copy, key, path, now);
	return found;
}

/*
 * A packet without RTS to an endpoint of a pinned network comes from the same network: one from another network would
 * have passed a divider.
 */
static __always_inline __u64 path_flags(const struct tunnel *tunnel, const struct interface *receiver)
{
	__u64 labels = tunnel->rts & RTS_LABELS ? PATH_LABELS : 0;

	if (tunnel->flags & TUNNEL_RTS)
		return tunnel->rts & RTS_PINNED ? labels | PATH_PINNED : labels;
	return receiver->flags & INTERFACE_PINNED ? labels | PATH_PINNED : labels;
}

static __always_inline enum outcome update_path(const struct tunnel *tunnel, struct overlay_key *from,
						const struct interface *receiver)
{
	struct direct_path path = {tunnel->origin, path_flags(tunnel, receiver), bpf_ktime_get_coarse_ns(),
				   bpf_jiffies64()};
	struct endpoint *endpoint = endpoints.lookup(from);
	struct direct_path *known;
	bool changes;

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
	known = direct.lookup(from);
	changes = !known || !same_address(&known->host, &path.host) || known->flags != path.flags;
	direct.update(from, &path);
	if (changes)
		start_path_generation();
	return CONTINUE;
}

/* Also that the sender's network still asks for labels, or still does not. */
static __always_inline bool recently_confirmed(struct overlay_key *from, const struct address *host,
					       const struct tunnel *tunnel)
{
	struct found_path path = find_path(from);

	/* Closed: without a fresh path the packet gets all checks. */
	return path.host && path.recent && same_address(path.host, host) && !((path.flags ^ tunnel->rts) & PATH_LABELS);
}

static __always_inline enum outcome learn_path(const struct tunnel *tunnel, struct overlay_key *from,
					       const struct interface *receiver)
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
	if (tunnel->flags & (TUNNEL_RTS | TUNNEL_NO_CHECKSUM) && recently_confirmed(from, &tunnel->origin, tunnel))
		return CONTINUE;
	return update_path(tunnel, from, receiver);
}

#endif
