/* SPDX-License-Identifier: GPL-2.0-only */
/* The last step: an inner frame goes to its endpoint's interface. */
#ifndef DROPLET_DELIVER_H
#define DROPLET_DELIVER_H

/* From the gateway's address to it when it was sent to the gateway, else from its sender's. */
static __always_inline void address_to(struct ethhdr *ethernet, const struct endpoint *endpoint)
{
	if (is_gateway(ethernet->h_dest))
		copy_mac(ethernet->h_source, ethernet->h_dest);
	copy_mac(ethernet->h_dest, endpoint->mac);
}

static __always_inline bool fits(const struct endpoint *endpoint, __u32 length)
{
	return length <= sizeof(struct ethhdr) + endpoint->mtu;
}

/* Takes the tunnel's headers off. `ethernet` is the inner frame's header, and void afterwards. */
static __always_inline enum outcome deliver(context *ctx, const struct tunnel *tunnel, struct ethhdr *ethernet,
					    const struct endpoint *endpoint, __u32 *leave_by)
{
	address_to(ethernet, endpoint);
	if (move_start(ctx, tunnel->headers))
		return MALFORMED_OUTER;
	*leave_by = endpoint->ifindex;
	count_delivered(slot_of(endpoint->ifindex), tunnel->length);
	return DELIVERED;
}

#endif
