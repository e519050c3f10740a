/* SPDX-License-Identifier: GPL-2.0-only */
/* Routing by bouncers and dividers, and by the roles of this host, which follow from its maps. */
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
 * Whether an IPv4 address is the broadcast address of a known network. The last two bits exclude most addresses without
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

/* Whether an address is the gateway of its network, which every droplet answers itself. */
static __always_inline bool is_gateway_address(const struct overlay_key *key)
{
	struct network *network = network_of(key);

	return network && same_address(&network->gateway, &key->address);
}

/*
 * Whether a packet goes from one network to another. Closed: an address of no known network is in none; two such
 * addresses are in the same one.
 */
static __always_inline bool crosses_networks(const struct packet *packet)
{
	return network_of(&packet->from) != network_of(&packet->to);
}

/* Whether the receiver's network may ask for labels. Open: an address of no known network may be in one that does. */
static __always_inline bool may_ask_for_labels(const struct overlay_key *to)
{
	struct network *network = network_of(to);

	return !network || network->flags & NETWORK_LABELS;
}

static __always_inline void fill_detour_key(struct detour_key *key, const struct packet *packet)
{
	copy_words(&key->from, &packet->from.address);
	set_key_ipv6(&key->to, packet->to.vni, &packet->to.address);
}

/*
 * Which bouncer or divider packets of a local endpoint use: 0, the first choice, unless it recently misdirected one to
 * this address.
 */
static __always_inline __u8 recall_attempt(const struct packet *packet)
{
	struct detour_key key KEY;
	struct detour *detour;

	fill_detour_key(&key, packet);
	detour = detours.lookup(&key);
	/* Open: try the first choice again. */
	return detour && (__s64)(bpf_jiffies64() - detour->tick) < DETOUR_LIFETIME ? detour->attempt : 0;
}

/* Selects one of `count` droplets by the hash of the addresses, plus `offset`. `count` is not 0. */
static __always_inline void select_member(const struct address *set, __u32 count, const struct packet *packet,
					  __u32 offset, struct tunnel *tunnel)
{
	__u64 addresses = (__u64)address_word(&packet->from.address) << 32 | address_word(&packet->to.address);
	__u32 hash = hash_pair(addresses, packet->from.vni);

	copy_address(&tunnel->peer.address, &set[((hash % count + offset) % count) & (MAX_SET - 1)]);
}

static __always_inline enum outcome to_bouncer(const struct network *network, const struct packet *packet,
					       struct tunnel *tunnel, enum outcome sent)
{
	if (!network->count)
		return NO_BOUNCER;
	select_member(network->bouncers, network->count, packet, tunnel->attempt, tunnel);
	return sent;
}

/* Dividers advance more slowly than bouncers, so that the attempts cover all pairs of two small sets. */
static __always_inline enum outcome to_divider(const struct vpc *vpc, const struct packet *packet,
					       struct tunnel *tunnel, enum outcome sent)
{
	if (!vpc->count)
		return NO_DIVIDER;
	select_member(vpc->dividers, vpc->count, packet, tunnel->attempt + tunnel->attempt / 2, tunnel);
	return sent;
}

/*
 * The next droplet for an address that is not in `endpoints`, by the role of this host. Returns HANDED_TO_BOUNCER or
 * HANDED_TO_DIVIDER with tunnel->peer set. Every miss fails closed: a drop.
 */
static __always_inline enum outcome route_by_role(const struct packet *packet, struct tunnel *tunnel)
{
	__u32 vni = packet->to.vni;
	struct vpc *vpc = vpcs.lookup(&vni);
	struct network *network;

	if (!vpc)
		return NO_VPC;
	network = network_of(&packet->to);
	if (network && network->flags & NETWORK_LOCAL_BOUNCER)
		return NO_ENDPOINT;
	if (vpc->flags & VPC_LOCAL_DIVIDER)
		return network ? to_bouncer(network, packet, tunnel, HANDED_TO_BOUNCER) : NO_NETWORK;
	network = network_of(&packet->from);
	if (!network || !(network->flags & NETWORK_LOCAL_BOUNCER))
		return ENDPOINT_NOT_LOCAL;
	return to_divider(vpc, packet, tunnel, HANDED_TO_DIVIDER);
}

#endif
