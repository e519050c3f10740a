/* SPDX-License-Identifier: GPL-2.0-only */
/* Where a packet goes by the roles of this droplet, which follow from what its maps hold. */
#ifndef DROPLET_ROUTE_H
#define DROPLET_ROUTE_H

#include "lib/address.h"
#include "maps.h"
#include "outcomes.h"

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

static __always_inline void key_of_detour(struct detour_key *key, const struct packet *packet)
{
	copy_words(&key->from, &packet->from.address);
	set_key_ipv6(&key->to, packet->to.vni, &packet->to.address);
}

/* Which choice packets of a local endpoint take: 0, the first, unless that misdirected one to this address lately. */
static __always_inline __u8 recall_attempt(const struct packet *packet)
{
	struct detour_key key KEY;
	struct detour *detour;

	key_of_detour(&key, packet);
	detour = detours.lookup(&key);
	/* Open: the first choice is tried again. */
	return detour && (__s64)(bpf_jiffies64() - detour->tick) < DETOUR_LIFETIME ? detour->attempt : 0;
}

/*
 * One of a set for tunnel->peer: the same for all packets between two addresses, and another one `turn` places on.
 * `count` is not 0.
 */
static __always_inline void pick(const struct address *set, __u32 count, const struct packet *packet, __u32 turn,
				 struct tunnel *tunnel)
{
	__u64 addresses = (__u64)address_word(&packet->from.address) << 32 | address_word(&packet->to.address);
	__u32 hash = hash_pair(addresses, packet->from.vni);

	copy_address(&tunnel->peer.address, &set[((hash % count + turn) % count) & (MAX_SET - 1)]);
}

static __always_inline enum outcome to_bouncer(const struct network *network, const struct packet *packet,
					       struct tunnel *tunnel, enum outcome sent)
{
	if (!network->count)
		return NO_BOUNCER;
	pick(network->bouncers, network->count, packet, tunnel->attempt, tunnel);
	return sent;
}

/* Dividers turn at another pace than bouncers, so that attempts meet each pair of two small sets. */
static __always_inline enum outcome to_divider(const struct vpc *vpc, const struct packet *packet,
					       struct tunnel *tunnel, enum outcome sent)
{
	if (!vpc->count)
		return NO_DIVIDER;
	pick(vpc->dividers, vpc->count, packet, tunnel->attempt + tunnel->attempt / 2, tunnel);
	return sent;
}

/*
 * As bouncer or divider for an address that is not in `endpoints`: who knows more. Every miss fails closed: it drops.
 * Answers HANDED_TO_BOUNCER or HANDED_TO_DIVIDER with tunnel->peer filled, or a drop.
 */
static __always_inline enum outcome hand_on(const struct packet *packet, struct tunnel *tunnel)
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
		return network ? to_bouncer(network, packet, tunnel, HANDED_TO_BOUNCER) : NO_NETWORK;
	network = network_of(&packet->from);
	if (!network || !(network->flags & NETWORK_BOUNCED_HERE))
		return NOT_HERE;
	return to_divider(vpc, packet, tunnel, HANDED_TO_DIVIDER);
}

#endif
