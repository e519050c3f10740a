/* SPDX-License-Identifier: GPL-2.0-only */
/* Where a packet goes by the roles of this droplet, which follow from what its maps hold. */
#ifndef DROPLET_ROUTE_H
#define DROPLET_ROUTE_H

static __always_inline struct network *network_of(const struct overlay_key *key)
{
	struct network_key longest = {32 + 128, key->vni, key->address};

	return networks.lookup(&longest);
}

/*
 * Whether an IPv4 address is the broadcast address of a network that is known here. Two bits tell most others without
 * a lookup.
 */
static __always_inline bool is_subnet_broadcast(const struct overlay_key *key)
{
	struct network *network;

	if (!is_ipv4(&key->address) || ~unmapped(&key->address) & bpf_htonl(3))
		return false;
	network = network_of(key);
	return network && network->broadcast == unmapped(&key->address);
}

/* Whether an address is the gateway's of its network, which every droplet answers for itself. */
static __always_inline bool is_a_gateway(const struct overlay_key *key)
{
	struct network *network = network_of(key);

	return network && same_address(&network->gateway, &key->address);
}

/*
 * Networks that only dividers connect with others: whether a packet goes from one network to another. Closed for an
 * address of no network, which is of none of them; two such are of one.
 */
static __always_inline bool is_between_networks(const struct packet *packet)
{
	return network_of(&packet->from) != network_of(&packet->to);
}

/* One of a set, the same for all packets between two addresses. `count` is not 0. */
static __always_inline void pick(const struct address *set, __u32 count, const struct packet *packet,
				 struct address *target)
{
	__u64 addresses = (__u64)address_word(&packet->from.address) << 32 | address_word(&packet->to.address);
	__u32 hash = hash_pair(addresses, packet->from.vni);

	copy_address(target, &set[(hash % count) & (MAX_SET - 1)]);
}

static __always_inline enum outcome to_bouncer(const struct network *network, const struct packet *packet,
					       struct address *target, enum outcome sent)
{
	if (!network->count)
		return NO_BOUNCER;
	pick(network->bouncers, network->count, packet, target);
	return sent;
}

static __always_inline enum outcome to_divider(const struct vpc *vpc, const struct packet *packet,
					       struct address *target, enum outcome sent)
{
	if (!vpc->count)
		return NO_DIVIDER;
	pick(vpc->dividers, vpc->count, packet, target);
	return sent;
}

/*
 * As bouncer or divider for an address that is not in `endpoints`: who knows more. Every miss fails closed: it drops.
 * Answers HANDED_TO_BOUNCER or HANDED_TO_DIVIDER with `target` filled, or a drop.
 */
static __always_inline enum outcome hand_on(const struct packet *packet, struct address *target)
{
	__u32 vni = packet->to.vni;
	struct vpc *vpc = vpcs.lookup(&vni);
	struct network *network;

	if (!vpc)
		return NO_VPC;
	network = network_of(&packet->to);
	if (network && network->flags & NETWORK_BOUNCED_HERE)
		return NO_ENDPOINT;
	if (vpc->flags & VPC_DIVIDED_HERE)
		return network ? to_bouncer(network, packet, target, HANDED_TO_BOUNCER) : NO_NETWORK;
	network = network_of(&packet->from);
	if (!network || !(network->flags & NETWORK_BOUNCED_HERE))
		return NOT_HERE;
	return to_divider(vpc, packet, target, HANDED_TO_DIVIDER);
}

#endif
