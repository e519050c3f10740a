/* SPDX-License-Identifier: GPL-2.0-only */
/* The last step: an inner frame goes to its endpoint's interface. */
#ifndef DROPLET_ENDPOINT_H
#define DROPLET_ENDPOINT_H

#include "lib/address.h"
#include "lib/metrics.h"
#include "maps.h"

/* For an interface of no endpoint, a slot beyond the end of every map. */
static __always_inline __u32 slot_of(__u32 ifindex)
{
	return ifindex - IFINDEX_BASE;
}

/* NULL when the interface is no endpoint's: closed, for all that use it. An array has no absent entry, and 0 is no VNI.
 */
static __always_inline struct interface *sender_on(__u32 ifindex)
{
	__u32 slot = slot_of(ifindex);
	struct interface *sender = interfaces.lookup(&slot);

	return sender && sender->vni ? sender : 0;
}

/*
 * Who is on an endpoint's interface; NULL when it is nobody of this VPC. The kernel may give an element of a hash to
 * another key, also of another VPC, while a program still reads it; an element of an array stays where it is. So the
 * array has the last word on whose interface it is: closed. `ifindex` is loaded once, by ifindex_of().
 */
static __always_inline struct interface *receiver_on(__u32 ifindex, __u32 vni)
{
	struct interface *receiver = sender_on(ifindex);

	return receiver && receiver->vni == vni ? receiver : 0;
}

/* Where an endpoint is reached, by one load: the next one might read another endpoint's. */
static __always_inline __u32 ifindex_of(const struct endpoint *endpoint)
{
	return *(volatile __u32 *)&endpoint->ifindex;
}

/* From the gateway's address to it when it was sent to the gateway, else from its sender's. */
static __always_inline void address_to(struct ethhdr *ethernet, const struct interface *receiver)
{
	if (is_gateway(ethernet->h_dest))
		copy_mac(ethernet->h_source, ethernet->h_dest);
	copy_mac(ethernet->h_dest, receiver->mac);
}

static __always_inline bool fits(const struct endpoint *endpoint, __u32 length)
{
	return length <= sizeof(struct ethhdr) + endpoint->mtu;
}

/* Takes the tunnel's headers off. `ethernet` is the inner frame's header, and void afterwards. */
static __always_inline enum outcome deliver(context *ctx, const struct tunnel *tunnel, struct ethhdr *ethernet,
					    const struct endpoint *endpoint, __u32 *leave_by)
{
	__u32 ifindex = ifindex_of(endpoint);
	struct interface *receiver = receiver_on(ifindex, tunnel->vni);

	if (!receiver)
		return NOT_HERE;
	address_to(ethernet, receiver);
	if (move_start(ctx, tunnel->headers))
		return MALFORMED_OUTER;
	*leave_by = ifindex;
	count_delivered(slot_of(ifindex), tunnel->length);
	return DELIVERED;
}

#endif
