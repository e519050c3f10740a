/* SPDX-License-Identifier: GPL-2.0-only */
/* ARP requests and neighbour solicitations of endpoints: answered here, or forwarded to one droplet. */
#ifndef DROPLET_RESOLUTION_ENDPOINT_H
#define DROPLET_RESOLUTION_ENDPOINT_H

#include "lib/arp.h"
#include "lib/egress_route.h"
#include "lib/nd.h"
#include "lib/route.h"

/* RESOLVE_REMOTELY if another droplet is to answer the request. */
static __always_inline enum outcome arp_from_endpoint(context *ctx, const struct interface *sender,
						      struct egress *egress)
{
	struct ethhdr *ethernet = frame_start(ctx);
	struct arp *arp = (void *)(ethernet + 1);
	struct packet *packet = egress->packet;
	const __u8 gateway[6] = GATEWAY_MAC;
	struct endpoint *endpoint;
	struct network *network;
	enum outcome outcome = check_arp(ethernet, frame_end(ctx), egress->tunnel->length);

	egress->tunnel->tos = sender->tos;
	if (outcome != CONTINUE)
		return outcome;
	if (arp->operation != bpf_htons(ARP_REQUEST))
		return ARP_OPCODE;
	if (!sender->ipv4 || !same_mac(arp->sender_mac, sender->mac) || (arp->sender && arp->sender != sender->ipv4))
		return SOURCE_ARP;
	if (arp->target == sender->ipv4)
		return ARP_OWN_ADDRESS;
	set_key(&packet->from, sender->vni, sender->ipv4);
	set_key(&packet->to, sender->vni, arp->target);
	network = network_of(&packet->from);
	if (!network) /* closed: neither gateway nor bouncer is known */
		return NO_NETWORK;
	if (same_address(&packet->to.address, &network->gateway)) {
		answer_arp(ethernet, arp, gateway);
		return ARP_ANSWERED;
	}
	endpoint = endpoints.lookup(&packet->to);
	if (!endpoint) { /* open: its host or a bouncer may know it */
		if (is_multicast(arp->target) || is_subnet_broadcast(&packet->to))
			return MULTICAST;
		return RESOLVE_REMOTELY;
	}
	answer_arp(ethernet, arp, endpoint->mac);
	return ARP_ANSWERED;
}

/* CONTINUE if the endpoint is the sender: from its address, from :: or from a link-local one. */
static __always_inline enum outcome check_solicitor(struct ethhdr *ethernet, void *end, const struct interface *sender,
						    const struct packet *packet, const struct solicitation *requested)
{
	struct ipv6hdr *ip = (void *)(ethernet + 1);
	struct nd *nd = (void *)(ip + 1);

	if (is_unspecified(&sender->ipv6))
		return SOURCE_ND;
	if (!requested->dad && !is_link_local(&packet->from.address) &&
	    !same_address(&packet->from.address, &sender->ipv6))
		return SOURCE_ND;
	if ((void *)(nd + 1) <= end && packet->length >= ND_ANSWER && nd->option == ND_SOURCE_MAC &&
	    !same_mac(nd->option_mac, sender->mac))
		return SOURCE_ND;
	if (same_address(&requested->target, &sender->ipv6) || is_link_local(&requested->target))
		return ND_OWN_ADDRESS;
	return CONTINUE;
}

/*
 * Replaces the source of a solicitation by the endpoint's own address, to which a bouncer can send its answer; also for
 * DAD, so that the answering droplet knows the sender. An advertisement of the target ends DAD as well (RFC 4862
 * section 5.4.4).
 */
static __always_inline void set_solicitor(struct ethhdr *ethernet, const struct interface *sender)
{
	struct ipv6hdr *ip = (void *)(ethernet + 1);
	struct nd *nd = (void *)(ip + 1);
	__u64 before = sum_words(&ip->saddr, 4), after = sum_words(&sender->ipv6, 4);

	nd->check = checksum_replace(nd->check, sum_fold(before), sum_fold(after));
	copy_address((struct address *)&ip->saddr, &sender->ipv6);
}

/* RESOLVE_REMOTELY if another droplet is to answer the solicitation. */
static __always_inline enum outcome nd_from_endpoint(context *ctx, const struct interface *sender,
						     struct egress *egress)
{
	struct ethhdr *ethernet = frame_start(ctx);
	struct packet *packet = egress->packet;
	const __u8 gateway[6] = GATEWAY_MAC;
	struct solicitation requested = {};
	struct overlay_key own KEY;
	struct endpoint *endpoint;
	struct network *network;
	enum outcome outcome = check_nd(ethernet, frame_end(ctx), packet, egress->transport, &requested);

	if (outcome == CONTINUE)
		outcome = check_solicitor(ethernet, frame_end(ctx), sender, packet, &requested);
	if (outcome != CONTINUE)
		return outcome;
	set_key_ipv6(&own, sender->vni, &sender->ipv6);
	network = network_of(&own);
	if (!network) /* closed, as for ARP */
		return NO_NETWORK;
	if (same_address(&requested.target, &network->gateway))
		return answer_nd(ctx, 0, packet, &requested, gateway, ND_ANSWERED);
	set_key_ipv6(&packet->to, sender->vni, &requested.target);
	endpoint = endpoints.lookup(&packet->to);
	if (endpoint) /* a miss is open: its host or a bouncer may know it */
		return answer_nd(ctx, 0, packet, &requested, endpoint->mac, ND_ANSWERED);
	set_solicitor(ethernet, sender);
	egress->tunnel->tos = sender->tos;
	packet->from = own;
	return RESOLVE_REMOTELY;
}

#endif
