/* SPDX-License-Identifier: GPL-2.0-only */
/* The next hop to another droplet: through which interface, to which Ethernet address, with which MTU. */
#ifndef DROPLET_NEXT_HOP_H
#define DROPLET_NEXT_HOP_H

#include "lib/cache.h"
#include "lib/encap.h"
#include "maps.h"

/* Whether there is a next hop to a droplet that answers probes, or is not probed. */
static __always_inline bool is_up(const struct next_hop *hop)
{
	return hop && !(hop->flags & NEXT_HOP_DOWN);
}

static __always_inline bool is_other_family(const struct address *one, const struct address *other)
{
	return OUTER_IPV4 && OUTER_IPV6 && is_ipv4(one) != is_ipv4(other);
}

/* Returns a copy that is as good as `hop`, or what there is if `hop` is no longer the entry. */
static __always_inline struct next_hop *cache_hop(struct cached_hop *copy, struct next_hop_key *key,
						  struct next_hop *hop, __u64 now)
{
	struct next_hop *again;

	if (is_taken(copy->generation, now, copy->expires_tick, &copy->key, key))
		return hop;
	copy->key = *key;
	copy->hop = *hop;
	copy->generation = now;
	copy->expires_tick = bpf_jiffies64() + CACHE_LIFETIME;
	again = next_hops.lookup(key);
	if (again == hop)
		return &copy->hop;
	copy->expires_tick = EXPIRED; /* closed: it was changed, and the kernel may have reused the element */
	return again;
}

/* The entry of a key in `next_hops`, NULL if there is none; `key` is aligned to 8. */
static __always_inline struct next_hop *lookup_hop(struct next_hop_key *key)
{
	__u32 only = 0, index = cache_index(key, CACHED_HOPS_BITS);
	struct hop_cache *cache = hop_caches.lookup(&only);
	struct cached_hop *copy = cache ? &cache->hop[bounded(index, CACHED_HOPS - 1)] : 0;
	__u64 now = generation(GENERATION_NEXT_HOPS);
	struct next_hop *hop;

	if (copy && copy->generation == now && same_key(&copy->key, key) && !is_over(copy->expires_tick))
		return &copy->hop;
	hop = next_hops.lookup(key);
	return hop && copy ? cache_hop(copy, key, hop, now) : hop;
}

/*
 * The next hop to tunnel->peer from `*local`; NULL if there is none. Replaces `*local` if another of this host's
 * droplets is to send: on another interface, or with an address of the other family.
 */
static __always_inline struct next_hop *find_hop(struct tunnel *tunnel, struct local_droplet **local)
{
	struct local_droplet *other;
	struct next_hop *hop;
	__u32 index;

	tunnel->peer.interface = (*local)->interface;
	hop = lookup_hop(&tunnel->peer);
	if (!hop)
		return 0;
	if (!(hop->flags & NEXT_HOP_BY_OTHER) && !is_other_family(&(*local)->address, &tunnel->peer.address))
		return hop;
	index = hop->droplet;
	other = local_droplets.lookup(&index);
	/* Closed: that droplet was just removed. */
	if (!other || !other->interface || is_other_family(&other->address, &tunnel->peer.address))
		return 0;
	*local = other;
	return hop;
}

/* Why find_hop() found none. */
static __always_inline enum outcome no_hop_reason(const struct tunnel *tunnel, const struct local_droplet *local)
{
	return is_ipv4(&tunnel->peer.address) == is_ipv4(&local->address) ? NEXT_HOP_UNRESOLVED : OTHER_FAMILY;
}

/*
 * For a packet from a tunnel: finds the next hop to tunnel->peer and sets tunnel->mtu for an ICMP error. Returns `sent`
 * if the packet fits the path.
 */
static __always_inline enum outcome resolve_next_hop(struct tunnel *tunnel, struct local_droplet **local,
						     struct next_hop **hop, enum outcome sent)
{
	*hop = find_hop(tunnel, local);
	if (!*hop) /* closed: it cannot be sent without an Ethernet address */
		return no_hop_reason(tunnel, *local);
	/* The option over IPv4 cannot hold an IPv6 origin: answers go through this droplet. */
	if (OUTER_IPV4 && !is_over_ipv6(*local) && !is_ipv4(&tunnel->origin) && fits_path(tunnel, *hop, false)) {
		copy_address(&tunnel->origin, &(*local)->address);
		tunnel->rts = (tunnel->rts & ~RTS_VXLAN) | RTS_UNLEARNT;
	}
	/* No error about a packet that is being returned to its sender. */
	tunnel->mtu = sent == MISDIRECTED ? 0 : endpoint_mtu(*hop, is_over_ipv6(*local), tunnel->label);
	return fits_path(tunnel, *hop, is_over_ipv6(*local)) ? sent : EXCEEDS_MTU;
}

static __always_inline bool leaves_by_tunnel(enum outcome outcome)
{
	return outcome >= FIRST_SENT && outcome < FIRST_DROPPED;
}

/*
 * Sends a packet from a tunnel to tunnel->peer; returns `outcome`, EXCEEDS_MTU or a drop. `packet` and `transport` are
 * those of an inner frame that is handed on; of an error that replaced it they are NULL.
 */
static __always_inline enum outcome send_through_tunnel(context *ctx, struct local_droplet *local,
							struct tunnel *tunnel, const struct packet *packet,
							const struct transport *transport, enum outcome outcome,
							__u32 *tx_ifindex)
{
	struct next_hop *hop = 0;
	struct inner_sum inner = {};

	outcome = unknown_scalar(resolve_next_hop(tunnel, &local, &hop, outcome));
	if (!leaves_by_tunnel(outcome))
		return outcome;
	if (!hop) /* for the verifier */
		return NEXT_HOP_UNRESOLVED;
	*tx_ifindex = local->tx_ifindex;
	inner.unread = tunnel->length;
	if (HAS_GSO && packet && is_over_ipv6(local) && !omits_checksum(local, hop))
		take_unfinished(frame_start(ctx) + bounded(tunnel->headers, MAX_HEADERS), frame_end(ctx), packet,
				transport, &inner);
	return send(ctx, local, tunnel, hop, &inner, false, outcome);
}

#endif
