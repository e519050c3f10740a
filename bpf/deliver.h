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

/* Congestion marks of the outer header go to the inner one: RFC 6040 section 4.2. */
static __always_inline enum outcome merge_ecn(struct iphdr *ip, __u8 outer_tos)
{
	__u8 outer = outer_tos & ECN_MASK, inner = ip->tos & ECN_MASK;

	if (outer == ECN_CE && !inner)
		return ECN_NOT_CAPABLE;
	if (inner && inner != ECN_CE && outer == ECN_CE)
		set_tos(ip, ip->tos | ECN_CE);
	else if (inner == ECN_ECT0 && outer == ECN_ECT1)
		set_tos(ip, (ip->tos & ~ECN_MASK) | ECN_ECT1);
	return GO_ON;
}

/* Takes the tunnel's headers off. `ethernet` is the inner frame's header, and void afterwards. */
static __always_inline enum outcome deliver(context *ctx, const struct tunnel *tunnel, struct ethhdr *ethernet,
					    const struct endpoint *endpoint, __u32 *leave_by)
{
	address_to(ethernet, endpoint);
	if (move_start(ctx, tunnel->headers))
		return MALFORMED_OUTER;
	*leave_by = endpoint->ifindex;
	count_delivered(endpoint->slot, tunnel->length);
	return DELIVERED;
}

#endif
