/* SPDX-License-Identifier: GPL-2.0-only */
/* Interfaces of local endpoints, and delivery to them. */
#ifndef DROPLET_ENDPOINT_H
#define DROPLET_ENDPOINT_H

#include "lib/cache.h"
#include "lib/gso.h"
#include "lib/state.h"
#include "lib/verifier.h"
#include "maps.h"

/* NULL if the interface belongs to no endpoint, and all callers fail closed. Unused array entries have VNI 0. */
static __always_inline struct interface *find_interface(__u32 ifindex)
{
	__u32 slot = slot_of(ifindex);
	struct interface *sender = interfaces.lookup(&slot);

	if (!sender || !sender->vni)
		return 0;
	test_itself(sender);
	return sender;
}

/*
 * The endpoint on an interface; NULL if it is not of this VPC. While a program reads an element of a hash, the kernel
 * may reuse that element for another key, even of another VPC; elements of an array stay in place. So the array
 * `interfaces` decides whose interface it is, and fails closed. Load `ifindex` once, by ifindex_of().
 */
static __always_inline struct interface *find_receiver(__u32 ifindex, __u32 vni)
{
	struct interface *receiver = find_interface(ifindex);

	return receiver && receiver->vni == vni ? receiver : 0;
}

/* One volatile load: a second one might read another endpoint's. */
static __always_inline __u32 ifindex_of(const struct endpoint *endpoint)
{
	return *(volatile __u32 *)&endpoint->ifindex;
}

/* Whether the endpoint on an interface has an address. Zeros mean that it has none of that family. */
static __always_inline bool has_address(const struct interface *receiver, const struct address *address)
{
	if (!INNER_IPV6 || is_ipv4(address))
		return receiver->ipv4 == unmapped(address) && receiver->ipv4;
	return same_address(&receiver->ipv6, address) && !is_unspecified(address);
}

static __always_inline __u32 cached_family(const struct address *address)
{
	return INNER_IPV6 && !is_ipv4(address) ? CACHED_IPV6 : 0;
}

static __always_inline struct cached_slot *cached_slot_of(const struct overlay_key *to)
{
	__u32 only = 0, index = cache_index(to, CACHED_SLOTS_BITS);
	struct slot_cache *cache = slot_caches.lookup(&only);

	return cache ? &cache->slot[bounded(index, CACHED_SLOTS - 1)] : 0;
}

/*
 * The local endpoint with an address, if its slot is cached, else NULL. A slot has one address of each family, which
 * `interfaces` holds, so slot and family are key enough. Sets `*ifindex`.
 */
static __always_inline struct interface *find_cached_receiver(const struct overlay_key *to, __u32 *ifindex)
{
	struct cached_slot *copy = cached_slot_of(to);
	struct interface *receiver;
	__u32 slot;

	if (!copy || copy->generation != generation(GENERATION_ENDPOINTS) || is_over(copy->expires_tick))
		return 0;
	slot = copy->slot ^ cached_family(&to->address);
	receiver = interfaces.lookup(&slot);
	if (!receiver || receiver->vni != to->vni || !has_address(receiver, &to->address))
		return 0;
	*ifindex = IFINDEX_BASE + slot;
	return receiver;
}

/* `now` is the generation from before the lookup of `to` in `endpoints`. */
static __always_inline void cache_receiver(const struct overlay_key *to, const struct interface *receiver,
					   __u32 ifindex, __u64 now)
{
	struct cached_slot *copy = cached_slot_of(to);

	if (!copy || !has_address(receiver, &to->address))
		return;
	copy->generation = now;
	copy->expires_tick = bpf_jiffies64() + CACHE_LIFETIME;
	copy->slot = slot_of(ifindex) ^ cached_family(&to->address);
}

/* Sets the destination; the source becomes the gateway's if the frame was sent to the gateway. */
static __always_inline void rewrite_ethernet(struct ethhdr *ethernet, const struct interface *receiver)
{
	if (is_gateway_mac(ethernet->h_dest))
		copy_mac(ethernet->h_source, ethernet->h_dest);
	copy_mac(ethernet->h_dest, receiver->mac);
}

/*
 * Whether the endpoint is a function endpoint: its packets go to its functions, and to no interface. Also without
 * STAGES, as an agent that no longer accepts functions finds the entry until it has the documents.
 */
static __always_inline bool is_function_endpoint(const struct interface *endpoint)
{
	return endpoint->flags & INTERFACE_FUNCTION;
}

/* Whether an inner frame, or each of its segments, fits the MTU of an endpoint. */
static __always_inline bool fits_mtu(__u32 mtu, const struct tunnel *tunnel)
{
	return longest_packet(tunnel) <= sizeof(struct ethhdr) + mtu;
}

/*
 * Removes the outer headers and rewrites the Ethernet header of the inner frame for the endpoint on an interface.
 * Returns `delivered`, or a drop.
 */
static __always_inline enum outcome deliver(context *ctx, const struct frame_state *state,
					    const struct interface *receiver, __u32 ifindex, enum outcome delivered)
{
	const struct tunnel *tunnel = &state->tunnel;
	struct amount amount = amount_of(ctx, state);
	struct ethhdr *ethernet;

	if (is_function_endpoint(receiver)) /* closed: none of its functions took it */
		return NO_FUNCTION;
	/* It stays marked as a tunnel's, and the receiver's stack, which cuts UDP for sockets, cannot cut it as one. */
	if (HAS_GSO && segment_bytes(ctx) && state->transport.protocol == IPPROTO_UDP)
		return GSO_PACKET;
	if ((!STAGES || tunnel->headers) && /* a process got it without them; tc refuses to remove nothing from ARP */
	    remove_outer(ctx, bounded(tunnel->headers, MAX_HEADERS), state->outer.summed))
		return MALFORMED_OUTER;
	ethernet = frame_start(ctx);
	if ((void *)(ethernet + 1) > frame_end(ctx))
		return MALFORMED_OUTER;
	rewrite_ethernet(ethernet, receiver);
	amount.bytes = tunnel->length;
	count_delivered(slot_of(ifindex), amount);
	return delivered;
}

#endif
