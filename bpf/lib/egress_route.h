/* SPDX-License-Identifier: GPL-2.0-only */
/* Where a packet of an endpoint goes: by direct path, by document, or through bouncers and dividers. */
#ifndef DROPLET_EGRESS_ROUTE_H
#define DROPLET_EGRESS_ROUTE_H

#include "lib/direct_path.h"
#include "lib/endpoint.h"
#include "lib/gateway.h"
#include "lib/next_hop.h"
#include "lib/route.h"

/* A packet that is being sent. */
struct egress {
	struct frame_state *state;
	struct packet *packet;
	struct tunnel *tunnel;
	struct transport *transport;
	struct local_droplet *local; /* that sends it; NULL if it is not configured yet */
	struct next_hop *hop;	     /* to tunnel.peer; NULL if not looked up yet */
	__u32 flow;
	__u32 receiver; /* ifindex of the local endpoint that receives it */
};

/* Whether tunnel.peer can be reached straight: it has a next hop and answers probes. */
static __always_inline bool is_reachable(struct egress *egress)
{
	struct local_droplet *local = egress->local;
	struct next_hop *hop;

	if (!local)
		return true;
	hop = find_hop(egress->tunnel, &local);
	if (!is_up(hop))
		return false;
	egress->hop = hop;
	egress->local = local;
	return true;
}

/*
 * Uses the direct path to the destination: SENT_DIRECT with tunnel.peer set, or CONTINUE if there is none. Sets
 * `*pinned` if the destination's network reaches others only through a divider.
 */
static __always_inline enum outcome use_direct_path(struct egress *egress, bool *pinned)
{
	struct found_path path = find_path(&egress->packet->to);

	if (!path.host) /* open: documents, then a bouncer */
		return CONTINUE;
	*pinned |= path.flags & PATH_PINNED;
	copy_address(&egress->tunnel->peer.address, path.host);
	if (*pinned && crosses_networks(egress->packet))
		return CONTINUE;
	if (!is_reachable(egress))
		return CONTINUE;
	if (!(path.flags & PATH_LABELS))
		egress->tunnel->label = 0;
	return SENT_DIRECT;
}

/* A packet between networks that only dividers connect. CONTINUE if this host is a divider. */
static __always_inline enum outcome route_by_divider(struct egress *egress)
{
	__u32 vni = egress->packet->to.vni;
	struct vpc *vpc = vpcs.lookup(&vni);

	if (!vpc) /* closed: it may not bypass the divider */
		return NO_VPC;
	if (vpc->flags & VPC_LOCAL_DIVIDER)
		return CONTINUE;
	egress->tunnel->attempt = recall_attempt(egress->packet);
	return to_divider(vpc, egress->packet, egress->tunnel, SENT_TO_DIVIDER);
}

/* The destination is unknown here: to a bouncer of the sender's network, which may be this host. */
static __always_inline enum outcome route_by_network(struct ethhdr *ethernet, void *end, struct egress *egress)
{
	struct packet *packet = egress->packet;
	struct network *network = network_of(&packet->from);

	if (!network) /* closed: no bouncer is known */
		return NO_NETWORK;
	if (same_address(&packet->to.address, &network->gateway))
		return answer_echo(ethernet, end, packet, egress->transport);
	egress->tunnel->attempt = recall_attempt(packet);
	if (network->flags & NETWORK_LOCAL_BOUNCER)
		return route_by_role(packet, egress->tunnel);
	return to_bouncer(network, packet, egress->tunnel, SENT_TO_BOUNCER);
}

static __always_inline enum outcome route_by_endpoint(struct ethhdr *ethernet, void *end, struct egress *egress,
						      bool pinned)
{
	struct tunnel *tunnel = egress->tunnel;
	struct endpoint *endpoint = endpoints.lookup(&egress->packet->to);
	enum outcome outcome = CONTINUE;

	if (!endpoint) { /* open: the network's bouncers may know it */
		if (is_subnet_broadcast(&egress->packet->to))
			return MULTICAST;
		if (pinned && crosses_networks(egress->packet))
			outcome = route_by_divider(egress);
		return outcome == CONTINUE ? route_by_network(ethernet, end, egress) : outcome;
	}
	if ((pinned || endpoint->flags & ENDPOINT_PINNED) && crosses_networks(egress->packet))
		outcome = route_by_divider(egress);
	if (outcome != CONTINUE)
		return outcome;
	if (endpoint->ifindex) {
		tunnel->mtu = endpoint->mtu;
		egress->receiver = ifindex_of(endpoint);
		return fits_mtu(endpoint->mtu, tunnel) ? DELIVERED_SAME_HOST : EXCEEDS_MTU;
	}
	copy_address(&tunnel->peer.address, &endpoint->host);
	if (!is_reachable(egress)) {
		outcome = route_by_network(ethernet, end, egress);
		if (outcome != NO_ENDPOINT)
			return outcome;
		/* This host is the bouncer, which knows only the direct route. */
	}
	if (VXLAN_PORT && endpoint->flags & ENDPOINT_VXLAN)
		tunnel->flags = TUNNEL_VXLAN;
	if (!(endpoint->flags & ENDPOINT_LABELS))
		tunnel->label = 0;
	return SENT_DIRECT;
}

/*
 * Chooses where a packet goes: SENT_* or HANDED_* with tunnel.peer set, DELIVERED_SAME_HOST, an answer, or a drop. A
 * fresh direct path takes precedence, then documents, then the bouncers and dividers.
 */
static __always_inline enum outcome find_route(struct ethhdr *ethernet, void *end, const struct interface *sender,
					       struct egress *egress)
{
	bool pinned = sender->flags & INTERFACE_PINNED;

	if (use_direct_path(egress, &pinned) == SENT_DIRECT)
		return SENT_DIRECT;
	return route_by_endpoint(ethernet, end, egress, pinned);
}

/*
 * Chooses where a request for an unknown address goes: to the host of a fresh direct path, which answers even if all
 * bouncers are down, else to a bouncer of the sender's network.
 */
static __always_inline enum outcome route_request(const struct interface *sender, struct egress *egress)
{
	bool pinned = sender->flags & INTERFACE_PINNED;
	struct network *network;

	if (use_direct_path(egress, &pinned) == SENT_DIRECT)
		return SENT_DIRECT;
	network = network_of(&egress->packet->from);
	if (!network) /* closed: it was just removed */
		return NO_NETWORK;
	if (network->flags & NETWORK_LOCAL_BOUNCER)
		return NO_ENDPOINT;
	egress->tunnel->attempt = recall_attempt(egress->packet);
	return to_bouncer(network, egress->packet, egress->tunnel, SENT_TO_BOUNCER);
}

#endif
