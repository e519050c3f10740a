/* SPDX-License-Identifier: GPL-2.0-only */
/* The droplet at a tunnel's other end: whether it is known, what it may say, and how it is answered. */
#ifndef DROPLET_PEER_H
#define DROPLET_PEER_H

#include "lib/icmp.h"
#include "lib/route.h"

/*
 * Closed: strangers' tunnels reach nobody. A packet that came direct over a path confirmed lately is spared the lookup,
 * for the droplet was known when the path was confirmed. So one that is no longer known is shut out within
 * DIRECT_RENEW.
 */
static __always_inline enum outcome check_peer(const struct local_droplet *local, const struct tunnel *tunnel,
					       bool on_path)
{
	struct droplet *droplet;

	if (on_path)
		return GO_ON;
	droplet = droplets.lookup(&tunnel->peer.address);
	if (!droplet) /* closed */
		return UNKNOWN_DROPLET;
	if (tunnel->flags & TUNNEL_UNSUMMED && !((droplet->flags | local->flags) & DROPLET_ZERO_CHECKSUM))
		return NO_CHECKSUM;
	return GO_ON;
}

/* Whether two droplets are of one host. A stranger is of none: closed. */
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
 * In whose name a VXLAN peer may speak, which has held nobody to their own source: in that of no endpoint of this host,
 * and of no gateway but to tell an error. What is to go on, others take from this droplet: it must come from the host
 * that its source is on. Open for a source that documents do not tell of, and for what ends here.
 */
static __always_inline enum outcome check_vxlan_source(struct ethhdr *ethernet, void *end, const struct tunnel *tunnel,
						       const struct packet *packet, bool goes_on)
{
	struct endpoint *source = endpoints.lookup(&packet->from);

	if (source && source->ifindex)
		return SOURCE_ELSEWHERE;
	if (source && goes_on && !is_same_host(&source->host, &tunnel->peer.address))
		return SOURCE_ELSEWHERE;
	if (is_a_gateway(&packet->from) && !is_complaint(ethernet, end, packet))
		return SOURCE_ELSEWHERE;
	return GO_ON;
}

/* Prepares an answer of this droplet's own to the one that the packet's sender is on. */
static __always_inline enum outcome to_origin(const struct local_droplet *local, struct tunnel *tunnel,
					      enum outcome sent)
{
	bool vxlan;

	/* Closed: strangers are not answered. */
	if (tunnel->flags & TUNNEL_RETURNS && !droplets.lookup(&tunnel->origin))
		return UNKNOWN_ORIGIN;
	copy_address(&tunnel->peer.address, &tunnel->origin);
	copy_address(&tunnel->origin, &local->address);
	vxlan = VXLAN_PORT && (tunnel->flags & TUNNEL_VXLAN || tunnel->rts & RTS_VXLAN);
	tunnel->flags = vxlan ? TUNNEL_VXLAN : TUNNEL_RETURNS;
	tunnel->rts = RTS_UNLEARNT;
	tunnel->attempt = 0;
	tunnel->bounces = 0;
	tunnel->tos &= ~ECN_MASK;
	tunnel->ttl = NEW_TTL;
	return sent;
}

#endif
