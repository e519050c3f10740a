/* SPDX-License-Identifier: GPL-2.0-only */
/* Where a packet goes by the roles of this droplet, which follow from what its maps hold. */
#ifndef DROPLET_ROUTE_H
#define DROPLET_ROUTE_H

static __always_inline struct network *network_of(const struct overlay_key *key)
{
	struct network_key longest = {32 + 128, key->vni, key->address};

	return networks.lookup(&longest);
}

/* One of a set, the same for all packets between two addresses. `count` is not 0. */
static __always_inline struct address pick(const struct address *set, __u32 count, const struct overlay_key *from,
					   const struct overlay_key *to)
{
	__u32 hash = hash_pair((__u64)unmapped(&from->address) << 32 | unmapped(&to->address), from->vni);

	return set[(hash % count) & (MAX_SET - 1)];
}

static __always_inline enum outcome to_bouncer(struct network *network, const struct overlay_key *from,
					       const struct overlay_key *to, struct address *target, enum outcome sent)
{
	if (!network->count)
		return NO_BOUNCER;
	*target = pick(network->bouncers, network->count, from, to);
	return sent;
}

/*
 * As bouncer or divider for an address that is not in `endpoints`: who knows more. Every miss fails closed.
 * Answers HANDED_TO_BOUNCER or HANDED_TO_DIVIDER with `target` filled, or a drop.
 */
static __always_inline enum outcome hand_on(const struct overlay_key *from, const struct overlay_key *to,
					    struct address *target)
{
	__u32 vni = to->vni;
	struct vpc *vpc = vpcs.lookup(&vni);
	struct network *network;

	if (!vpc)
		return NO_VPC;
	network = network_of(to);
	if (network && network->flags & NETWORK_BOUNCED_HERE)
		return NO_ENDPOINT;
	if (vpc->flags & VPC_DIVIDED_HERE)
		return network ? to_bouncer(network, from, to, target, HANDED_TO_BOUNCER) : NO_NETWORK;
	network = network_of(from);
	if (!network || !(network->flags & NETWORK_BOUNCED_HERE))
		return NOT_HERE;
	if (!vpc->count)
		return NO_DIVIDER;
	*target = pick(vpc->dividers, vpc->count, from, to);
	return HANDED_TO_DIVIDER;
}

#endif
