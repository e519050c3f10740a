/* SPDX-License-Identifier: GPL-2.0-only */
/* By which of this host's interfaces another droplet is reached, and what leads there. */
#ifndef DROPLET_NEXT_HOP_H
#define DROPLET_NEXT_HOP_H

/* The others of this host's droplets, when the one at hand does not reach tunnel->peer: `*local` follows. */
static __always_inline struct next_hop *find_other_hop(struct tunnel *tunnel, struct local_droplet **local)
{
	struct local_droplet *other;
	struct next_hop *hop;

	for (__u32 i = 0; i < MAX_LOCAL_DROPLETS; i++) {
		__u32 index = i;

		other = local_droplets.lookup(&index);
		if (!other)
			return 0;
		if (!other->interface)
			continue;
		tunnel->peer.interface = other->interface;
		hop = next_hops.lookup(&tunnel->peer);
		if (hop && is_ipv4(&other->address) == is_ipv4(&tunnel->peer.address)) {
			*local = other;
			return hop;
		}
	}
	return 0;
}

/* NULL when tunnel->peer is not reached by the interface at hand; maybe it is by another one of this host's. */
static __always_inline struct next_hop *find_near_hop(struct tunnel *tunnel, const struct local_droplet *local)
{
	if (OUTER_IPV4 && OUTER_IPV6 && is_ipv4(&local->address) != is_ipv4(&tunnel->peer.address))
		return 0;
	tunnel->peer.interface = local->interface;
	return next_hops.lookup(&tunnel->peer);
}

/* Why find_hop() found none. */
static __always_inline enum outcome why_no_hop(const struct tunnel *tunnel, const struct local_droplet *local)
{
	return is_ipv4(&tunnel->peer.address) == is_ipv4(&local->address) ? NEXT_HOP_UNRESOLVED : OTHER_FAMILY;
}

/* NULL when no interface of this host reaches tunnel->peer now. */
static __always_inline struct next_hop *find_hop(struct tunnel *tunnel, struct local_droplet **local)
{
	struct next_hop *hop = find_near_hop(tunnel, *local);

	return hop ? hop : find_other_hop(tunnel, local);
}

#endif
