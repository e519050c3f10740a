/* SPDX-License-Identifier: GPL-2.0-only */
/* Address resolution through tunnels: other droplets' ARP requests and neighbour solicitations, and the answers. */
#ifndef DROPLET_RESOLUTION_H
#define DROPLET_RESOLUTION_H

#include "lib/arp.h"
#include "lib/endpoint.h"
#include "lib/nd.h"
#include "lib/peer.h"
#include "lib/roles.h"

/* The endpoint that a request asks for, when this droplet is to answer: it bounces its network, or the endpoint is
 * here. */
static __always_inline enum outcome find_asked(const struct tunnel *tunnel, const struct overlay_key *asked,
					       struct endpoint **endpoint)
{
	struct network *network = network_of(asked);

	if (tunnel->flags & TUNNEL_MISDIRECTED) /* closed: questions do not come back, and its origin did not ask */
		return NOT_HERE;
	*endpoint = endpoints.lookup(asked);
	if (*endpoint && (*endpoint)->ifindex)
		return GO_ON;
	/* Closed: who does not bounce the network says nothing of others, and its bouncer nothing of who is not there.
	 */
	if (!network || !(network->flags & NETWORK_BOUNCED_HERE) || (*endpoint && is_its_own(tunnel, *endpoint)))
		return NOT_HERE;
	return *endpoint ? GO_ON : NO_ENDPOINT;
}

/* Why a request is not answered here, unless it came straight for an endpoint that has left: then it goes back. */
static __always_inline enum outcome give_back_asked(struct tunnel *tunnel, enum outcome why)
{
	bool straight = !(tunnel->flags & (TUNNEL_RETURNS | TUNNEL_VXLAN | TUNNEL_COMES_BACK));

	return straight ? give_back(tunnel) : why;
}

/* GO_ON for a request of an endpoint of this host that came back, with `packet` saying who asked for whom. */
static __always_inline enum outcome arp_from_tunnel(context *ctx, const struct local_droplet *local,
						    struct tunnel *tunnel, struct packet *packet,
						    struct ethhdr *ethernet, __u32 *leave_by)
{
	struct arp *arp = (void *)(ethernet + 1);
	struct overlay_key asked KEY;
	struct endpoint *endpoint;
	enum outcome outcome = check_arp(ethernet, frame_end(ctx), tunnel->length);

	if (outcome != GO_ON)
		return outcome;
	set_key(&asked, tunnel->vni, arp->target);
	if (arp->operation == bpf_htons(ARP_REQUEST) && tunnel->flags & TUNNEL_INVALIDATES) {
		set_key(&packet->from, tunnel->vni, arp->sender);
		forget_path(tunnel, &packet->from, &asked);
		return NOT_HERE;
	}
	if (arp->operation == bpf_htons(ARP_REQUEST)) {
		outcome = find_asked(tunnel, &asked, &endpoint);
		if (outcome != GO_ON)
			return give_back_asked(tunnel, outcome);
		answer_arp(ethernet, arp, endpoint->mac);
		return to_origin(local, tunnel, ARP_ANSWERED_REMOTE);
	}
	/* Only bouncers answer, and say by RTS that they do: nobody else is believed about Ethernet addresses. */
	if (arp->operation != bpf_htons(ARP_REPLY) || !(tunnel->flags & TUNNEL_RETURNS))
		return ARP_OPCODE;
	endpoint = endpoints.lookup(&asked);
	if (!endpoint || !endpoint->ifindex) /* closed: an answer goes to who asked */
		return NOT_HERE;
	return fits(endpoint, tunnel->length) ? deliver(ctx, tunnel, ethernet, endpoint, leave_by) : TOO_BIG;
}

/* GO_ON as arp_from_tunnel() does. */
static __always_inline enum outcome nd_from_tunnel(context *ctx, const struct local_droplet *local,
						   struct tunnel *tunnel, struct packet *packet,
						   const struct transport *transport, struct ethhdr *ethernet)
{
	struct solicitation asked = {};
	struct overlay_key target KEY;
	struct endpoint *endpoint;
	enum outcome outcome = check_nd(ethernet, frame_end(ctx), packet, transport, &asked);

	if (outcome != GO_ON)
		return outcome;
	set_key_ipv6(&target, tunnel->vni, &asked.target);
	if (tunnel->flags & TUNNEL_INVALIDATES) {
		forget_path(tunnel, &packet->from, &target);
		return NOT_HERE;
	}
	outcome = find_asked(tunnel, &target, &endpoint);
	if (outcome != GO_ON)
		return give_back_asked(tunnel, outcome);
	/* A peer that is no droplet of ours leaves :: as the source; its host may have several. */
	if (asked.detects && is_same_host(&endpoint->host, &tunnel->origin))
		return ND_OWN_ADDRESS;
	outcome = answer_nd(ctx, tunnel->headers, packet, &asked, endpoint->mac, GO_ON);
	if (outcome != GO_ON)
		return outcome;
	tunnel->length = ND_ANSWER;
	packet->length = 0; /* nothing is left of the question that an error could quote */
	return to_origin(local, tunnel, ND_ANSWERED_REMOTE);
}

/* Only bouncers advertise, and say by RTS that they do: nobody else is believed about Ethernet addresses. */
static __always_inline bool is_answer(void *start, void *end, const struct tunnel *tunnel,
				      const struct transport *transport)
{
	return tunnel->flags & TUNNEL_RETURNS && is_advertisement(start, end, transport);
}

#endif
