/* SPDX-License-Identifier: GPL-2.0-only */
/* The droplet at the other end of a tunnel: whether it is known, which sources it may use, and answers to it. */
#ifndef DROPLET_PEER_H
#define DROPLET_PEER_H

#include "lib/icmp.h"
#include "lib/route.h"

/*
 * Accepts tunnel packets from known droplets only. A packet on a recently confirmed direct path needs no lookup: the
 * droplet was known when the path was confirmed. So a droplet that was removed is refused after at most DIRECT_RENEW.
 */
static __always_inline enum outcome check_peer(const struct local_droplet *local, const struct tunnel *tunnel,
					       bool on_path)
{
	struct droplet *droplet;

	if (on_path)
		return CONTINUE;
	droplet = droplets.lookup(&tunnel->peer.address);
	if (!droplet) /* closed */
		return UNKNOWN_DROPLET;
	if (tunnel->flags & TUNNEL_NO_CHECKSUM && !((droplet->flags | local->flags) & DROPLET_ZERO_CHECKSUM))
		return NO_CHECKSUM;
	return CONTINUE;
}

/* Whether two droplets are on one host. Closed: an unknown droplet is on none. */
static __always_inline bool is_same_host(const struct address *one, const struct address *other)
{
	struct droplet *first, *second;

	if (same_address(one, other))
		return true;
	first = droplets.lookup(one);
	second = droplets.lookup(other);
	return first && second && first->host == second->host;
}

/*
 * VXLAN peers do not check the source of their endpoints' packets, so this droplet does: the source must not be an
 * endpoint of this host, nor a gateway unless the packet is an ICMP error. Other droplets trust packets that this one
 * forwards, so their source must be on the peer's host. Open for a source that no document names, and for delivery.
 */
static __always_inline enum outcome check_vxlan_source(struct ethhdr *ethernet, void *end, const struct tunnel *tunnel,
						       const struct packet *packet, bool goes_on)
{
	struct endpoint *source = endpoints.lookup(&packet->from);

	if (source && source->ifindex)
		return SOURCE_ELSEWHERE;
	if (source && goes_on && !is_same_host(&source->host, &tunnel->peer.address))
		return SOURCE_ELSEWHERE;
	if (is_gateway_address(&packet->from) && !may_be_gateway_error(ethernet, end, packet))
		return SOURCE_ELSEWHERE;
	return CONTINUE;
}

/* Prepares an answer from this droplet to the droplet of the packet's sender. */
static __always_inline enum outcome reply_to_origin(const struct local_droplet *local, struct tunnel *tunnel,
						    enum outcome sent)
{
	bool vxlan;

	/* Closed: an unknown droplet gets no answer. */
	if (tunnel->flags & TUNNEL_RTS && !droplets.lookup(&tunnel->origin))
		return UNKNOWN_ORIGIN;
	copy_address(&tunnel->peer.address, &tunnel->origin);
	copy_address(&tunnel->origin, &local->address);
	vxlan = VXLAN_PORT && (tunnel->flags & TUNNEL_VXLAN || tunnel->rts & RTS_VXLAN);
	tunnel->flags = vxlan ? TUNNEL_VXLAN : TUNNEL_RTS;
	tunnel->rts = RTS_UNLEARNT;
	tunnel->label = 0;
	tunnel->attempt = 0;
	tunnel->bounces = 0;
	tunnel->tos &= ~ECN_MASK;
	tunnel->ttl = NEW_TTL;
	return sent;
}

#endif
