/* SPDX-License-Identifier: GPL-2.0-only */
/* By which of this host's interfaces another droplet is reached, and what leads there. */
#ifndef DROPLET_NEXT_HOP_H
#define DROPLET_NEXT_HOP_H

/* Whether a hop leads to a droplet that answers, as far as anybody knows. */
static __always_inline bool is_up(const struct next_hop *hop)
{
	return hop && !(hop->flags & NEXT_HOP_DOWN);
}

static __always_inline bool is_other_family(const struct address *one, const struct address *other)
{
	return OUTER_IPV4 && OUTER_IPV6 && is_ipv4(one) != is_ipv4(other);
}

/*
 * What leads to tunnel->peer from where `*local` is; NULL when nothing does. `*local` becomes another of this host's
 * droplets when it leaves by another interface, or in the other family.
 */
static __always_inline struct next_hop *find_hop(struct tunnel *tunnel, struct local_droplet **local)
{
	struct local_droplet *other;
	struct next_hop *hop;
	__u32 index;

	tunnel->peer.interface = (*local)->interface;
	hop = next_hops.lookup(&tunnel->peer);
	if (!hop)
		return 0;
	if (!(hop->flags & NEXT_HOP_BY_OTHER) && !is_other_family(&(*local)->address, &tunnel->peer.address))
		return hop;
	index = hop->droplet;
	other = local_droplets.lookup(&index);
	/* Closed: that droplet has just gone. */
	if (!other || !other->interface || is_other_family(&other->address, &tunnel->peer.address))
		return 0;
	*local = other;
	return hop;
}

/* Why find_hop() found none. */
static __always_inline enum outcome why_no_hop(const struct tunnel *tunnel, const struct local_droplet *local)
{
	return is_ipv4(&tunnel->peer.address) == is_ipv4(&local->address) ? NEXT_HOP_UNRESOLVED : OTHER_FAMILY;
}

#endif
