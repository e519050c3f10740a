/* SPDX-License-Identifier: GPL-2.0-only */
/* By which of this host's interfaces another droplet is reached, and what leads there. */
#ifndef DROPLET_NEXT_HOP_H
#define DROPLET_NEXT_HOP_H

#include "lib/encap.h"
#include "maps.h"

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

/* What came through a tunnel and is to be sent on, back, or as an answer: through where. */
/*
 * Finds the hop that leads to tunnel->peer, and what the sender of a packet through it can be told. Answers `sent` when
 * the packet fits through there.
 */
static __always_inline enum outcome find_way_out(struct tunnel *tunnel, struct local_droplet **local,
						 struct next_hop **hop, enum outcome sent)
{
	*hop = find_hop(tunnel, local);
	if (!*hop) /* closed: without the neighbour's address there is nowhere to send */
		return why_no_hop(tunnel, *local);
	/* An IPv4 packet has no room for an IPv6 origin: answers take the way back by this droplet. */
	if (OUTER_IPV4 && !is_over_ipv6(*local) && !is_ipv4(&tunnel->origin) && fits_through(tunnel, *hop, false)) {
		copy_address(&tunnel->origin, &(*local)->address);
		tunnel->rts = (tunnel->rts & ~RTS_VXLAN) | RTS_UNLEARNT;
	}
	/* What is on its way to its sender already has nobody to be told. */
	tunnel->fits = sent == MISDIRECTED ? 0 : endpoint_mtu(*hop, is_over_ipv6(*local));
	return fits_through(tunnel, *hop, is_over_ipv6(*local)) ? sent : DOES_NOT_FIT;
}

static __always_inline bool is_to_be_sent(enum outcome outcome)
{
	return outcome >= FIRST_SENT && outcome < FIRST_DROPPED;
}

/* Sends a tunnel packet on, or back, for which that is the outcome so far; DOES_NOT_FIT when it cannot go there. */
static __always_inline enum outcome send_further(context *ctx, struct local_droplet *local, struct tunnel *tunnel,
						 enum outcome outcome, __u32 *leave_by)
{
	struct next_hop *hop = 0;

	outcome = forgotten(find_way_out(tunnel, &local, &hop, outcome));
	if (!is_to_be_sent(outcome))
		return outcome;
	if (!hop) /* the verifier does not know that a way out was found */
		return NEXT_HOP_UNRESOLVED;
	*leave_by = local->leaves;
	return send(ctx, local, tunnel, hop, 0, outcome);
}

#endif
