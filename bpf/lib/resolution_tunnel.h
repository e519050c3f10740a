/* SPDX-License-Identifier: GPL-2.0-only */
/* ARP requests and neighbour solicitations that come from other droplets, and the answers. */
#ifndef DROPLET_RESOLUTION_TUNNEL_H
#define DROPLET_RESOLUTION_TUNNEL_H

#include "lib/arp.h"
#include "lib/endpoint.h"
#include "lib/nd.h"
#include "lib/peer.h"
#include "lib/roles.h"

/*
 * The requested endpoint if this droplet answers for it: the endpoint is local, or this host is its network's bouncer.
 */
static __always_inline enum outcome find_requested(const struct tunnel *tunnel, const struct overlay_key *requested,
						   struct endpoint **endpoint)
{
	struct network *network = network_of(requested);

	if (tunnel->flags & TUNNEL_MISDIRECTED) /* closed: requests are never misdirected */
		return ENDPOINT_NOT_LOCAL;
	*endpoint = endpoints.lookup(requested);
	if (*endpoint && (*endpoint)->ifindex)
		return CONTINUE;
	/* Closed: only its host or its network's bouncer answers, and a VXLAN peer not for its own endpoint. */
	if (!network || !(network->flags & NETWORK_LOCAL_BOUNCER) || (*endpoint && is_at_peer(tunnel, *endpoint)))
		return ENDPOINT_NOT_LOCAL;
	return *endpoint ? CONTINUE : NO_ENDPOINT;
}

/* Returns the drop reason, or sends the request back if it came straight for an endpoint that has left. */
static __always_inline enum outcome return_request(struct tunnel *tunnel, enum outcome reason)
{
	bool straight = !(tunnel->flags & (TUNNEL_RTS | TUNNEL_VXLAN | TUNNEL_RETURNED));

	return straight ? return_packet(tunnel) : reason;
}

/* Handles ARP from a tunnel. Never returns CONTINUE. */
static __always_inline enum outcome arp_from_tunnel(context *ctx, const struct local_droplet *local,
						    struct tunnel *tunnel, struct packet *packet,
						    struct ethhdr *ethernet, __u32 *tx_ifindex)
{
	struct arp *arp = (void *)(ethernet + 1);
	struct overlay_key requested KEY;
	struct endpoint *endpoint;
	enum outcome outcome = check_arp(ethernet, frame_end(ctx), tunnel->length);

	if (outcome != CONTINUE)
		return outcome;
	set_key(&requested, tunnel->vni, arp->target);
	if (arp->operation == bpf_htons(ARP_REQUEST) && tunnel->flags & TUNNEL_INVALIDATES) {
		set_key(&packet->from, tunnel->vni, arp->sender);
		forget_path(tunnel, &packet->from, &requested);
		return ENDPOINT_NOT_LOCAL;
	}
	if (arp->operation == bpf_htons(ARP_REQUEST)) {
		outcome = find_requested(tunnel, &requested, &endpoint);
		if (outcome != CONTINUE)
			return return_request(tunnel, outcome);
		answer_arp(ethernet, arp, endpoint->mac);
		return reply_to_origin(local, tunnel, ARP_ANSWERED_REMOTE);
	}
	/* Only replies with RTS are accepted: bouncers send those. */
	if (arp->operation != bpf_htons(ARP_REPLY) || !(tunnel->flags & TUNNEL_RTS))
		return ARP_OPCODE;
	endpoint = endpoints.lookup(&requested);
	if (!endpoint || !endpoint->ifindex) /* closed: a reply goes to the local endpoint that asked */
		return ENDPOINT_NOT_LOCAL;
	*tx_ifindex = ifindex_of(endpoint);
	return fits_mtu(endpoint->mtu, tunnel) ? DELIVERED : TOO_BIG;
}

/* Handles neighbour discovery from a tunnel. */
static __always_inline enum outcome nd_from_tunnel(context *ctx, const struct local_droplet *local,
						   struct tunnel *tunnel, struct packet *packet,
						   const struct transport *transport, struct ethhdr *ethernet)
{
	struct solicitation requested = {};
	struct overlay_key target KEY;
	struct endpoint *endpoint;
	enum outcome outcome = check_nd(ethernet, frame_end(ctx), packet, transport, &requested);

	if (outcome != CONTINUE)
		return outcome;
	set_key_ipv6(&target, tunnel->vni, &requested.target);
	if (tunnel->flags & TUNNEL_INVALIDATES) {
		forget_path(tunnel, &packet->from, &target);
		return ENDPOINT_NOT_LOCAL;
	}
	outcome = find_requested(tunnel, &target, &endpoint);
	if (outcome != CONTINUE)
		return return_request(tunnel, outcome);
	/*
	 * Duplicate address detection from a VXLAN peer still has :: as its source; the host of the target may be that
	 * peer.
	 */
	if (requested.dad && is_same_host(&endpoint->host, &tunnel->origin))
		return ND_OWN_ADDRESS;
	outcome = answer_nd(ctx, tunnel->headers, packet, &requested, endpoint->mac, CONTINUE);
	if (outcome != CONTINUE)
		return outcome;
	tunnel->length = tunnel->longest = ND_ANSWER;
	packet->length = 0; /* the solicitation is overwritten: no ICMP error can quote it */
	return reply_to_origin(local, tunnel, ND_ANSWERED_REMOTE);
}

/* Only advertisements with RTS are accepted: bouncers send those. */
static __always_inline bool is_bouncer_advertisement(void *start, void *end, const struct tunnel *tunnel,
						     const struct transport *transport)
{
	return tunnel->flags & TUNNEL_RTS && is_advertisement(start, end, transport);
}

#endif
