// SPDX-License-Identifier: GPL-2.0-only
/*
 * Transit XDP: all that comes in from the substrate on the droplet's interface, and by tail call from the transit
 * agent what goes to another endpoint of this host.
 */
#include "kernel.h"
#include "structs.h"
#include "constants.h"
#include "outcomes.h"
#include "context.h"
#include "maps.h"
#include "count.h"
#include "sender.h"
#include "address.h"
#include "checksum.h"
#include "parse.h"
#include "arp.h"
#include "geneve.h"
#include "encapsulate.h"
#include "route.h"
#include "direct.h"
#include "learn.h"
#include "deliver.h"

/* Sends a packet on to another droplet in the name of this bouncer or divider. */
static __always_inline enum outcome send_on(context *ctx, const struct local_droplet *local, struct tunnel *tunnel,
					    const struct address *target, enum outcome sent)
{
	if (same_address(target, &local->address))
		return NOT_HERE;
	if (tunnel->bounces >= MAX_BOUNCES)
		return TOO_MANY_BOUNCES;
	if (tunnel->ttl <= 1)
		return OUTER_TTL;
	tunnel->peer = *target;
	tunnel->returns = true;
	tunnel->bounces++;
	tunnel->ttl--;
	return send(ctx, local, tunnel, sent);
}

/*
 * Closed: strangers' tunnels reach nobody. A packet that came direct over a path confirmed lately is spared the lookup,
 * for the droplet was known when the path was confirmed. So one that is no longer known is shut out within
 * DIRECT_RENEW.
 */
static __always_inline bool is_known(const struct tunnel *tunnel, bool on_path)
{
	struct address peer = tunnel->peer;

	return on_path || droplets.lookup(&peer);
}

static __always_inline enum outcome ipv4_from_tunnel(context *ctx, const struct local_droplet *local,
						     struct tunnel *tunnel, void *start, __u32 *leave_by)
{
	struct iphdr *ip = start + sizeof(struct ethhdr);
	struct overlay_key from KEY, to KEY;
	enum outcome outcome = check_ipv4(start, frame_end(ctx), tunnel->length);
	struct endpoint *endpoint;
	struct address target;
	bool on_path;

	if (outcome != GO_ON)
		return is_known(tunnel, false) ? outcome : UNKNOWN_DROPLET;
	set_key(&from, tunnel->vni, ip->saddr);
	set_key(&to, tunnel->vni, ip->daddr);
	on_path = !tunnel->returns && confirmed_lately(&from, &tunnel->peer);
	if (!is_known(tunnel, on_path))
		return UNKNOWN_DROPLET;
	endpoint = endpoints.lookup(&to);
	if (endpoint && endpoint->ifindex) {
		outcome = merge_ecn(ip, tunnel->tos);
		if (outcome == GO_ON && !on_path)
			outcome = learn(local, tunnel, &from);
		return outcome == GO_ON ? deliver(ctx, tunnel, start, endpoint, leave_by) : outcome;
	}
	outcome = BOUNCED;
	if (endpoint)
		target = endpoint->host;
	else
		outcome = hand_on(&from, &to, &target);
	return outcome < FIRST_DROPPED ? send_on(ctx, local, tunnel, &target, outcome) : outcome;
}

/* As bouncer, answers a request from the endpoints that it knows, to the droplet where it was asked. */
static __always_inline enum outcome arp_request(context *ctx, const struct local_droplet *local, struct tunnel *tunnel,
						struct ethhdr *ethernet)
{
	struct arp *arp = (void *)(ethernet + 1);
	struct overlay_key key = {tunnel->vni, mapped(arp->target)};
	struct network *network = network_of(&key);
	struct endpoint *endpoint;

	if (!network || !(network->flags & NETWORK_BOUNCED_HERE))
		return NOT_HERE;
	endpoint = endpoints.lookup(&key);
	if (!endpoint)
		return NO_ENDPOINT;
	if (tunnel->returns && !droplets.lookup(&tunnel->origin)) /* closed: strangers are not answered */
		return UNKNOWN_ORIGIN;
	answer_arp(ethernet, arp, endpoint->mac);
	tunnel->peer = tunnel->origin;
	tunnel->returns = false;
	tunnel->ttl = NEW_TTL;
	return send(ctx, local, tunnel, ARP_ANSWERED_REMOTE);
}

static __always_inline enum outcome arp_from_tunnel(context *ctx, const struct local_droplet *local,
						    struct tunnel *tunnel, struct ethhdr *ethernet, __u32 *leave_by)
{
	struct arp *arp = (void *)(ethernet + 1);
	struct overlay_key asked = {tunnel->vni};
	struct endpoint *endpoint;
	enum outcome outcome;

	outcome = check_arp(ethernet, frame_end(ctx), tunnel->length);
	if (outcome != GO_ON)
		return outcome;
	if (arp->operation == bpf_htons(ARP_REQUEST))
		return arp_request(ctx, local, tunnel, ethernet);
	if (arp->operation != bpf_htons(ARP_REPLY))
		return ARP_OPCODE;
	asked.address = mapped(arp->target);
	endpoint = endpoints.lookup(&asked);
	if (!endpoint || !endpoint->ifindex)
		return NOT_HERE;
	return deliver(ctx, tunnel, ethernet, endpoint, leave_by);
}

static __always_inline enum outcome from_substrate(context *ctx, const struct local_droplet *local, __u32 *leave_by)
{
	struct tunnel tunnel = {};
	struct ethhdr *ethernet;
	enum outcome outcome = parse_tunnel(ctx, local, &tunnel);

	if (outcome == PASSED || outcome == OUTER_FRAGMENT || outcome == OUTER_OPTIONS || outcome == MALFORMED_OUTER)
		return outcome;
	ethernet = frame_start(ctx) + bounded(tunnel.headers, MAX_HEADERS);
	if (outcome == GO_ON && (void *)(ethernet + 1) > frame_end(ctx))
		outcome = MALFORMED_GENEVE;
	if (outcome == GO_ON && ethertype(ethernet) == bpf_htons(ETH_P_IP))
		return ipv4_from_tunnel(ctx, local, &tunnel, ethernet, leave_by);
	if (!is_known(&tunnel, false))
		return UNKNOWN_DROPLET;
	if (outcome != GO_ON)
		return outcome;
	if (ethertype(ethernet) == bpf_htons(ETH_P_ARP))
		return arp_from_tunnel(ctx, local, &tunnel, ethernet, leave_by);
	return INNER_PROTOCOL;
}

/* The transit agent has checked the frame, the source and the time to live. */
static __always_inline enum outcome from_same_host(context *ctx, const struct interface *sender, __u32 *leave_by)
{
	struct ethhdr *ethernet = frame_start(ctx);
	struct iphdr *ip = (void *)(ethernet + 1);
	struct overlay_key to = {sender->vni};
	struct endpoint *endpoint;

	if ((void *)(ip + 1) > frame_end(ctx))
		return MALFORMED_INNER;
	to.address = mapped(ip->daddr);
	endpoint = endpoints.lookup(&to);
	if (!endpoint || !endpoint->ifindex)
		return NO_ENDPOINT;
	address_to(ethernet, endpoint);
	*leave_by = endpoint->ifindex;
	count_delivered(endpoint->slot, frame_length(ctx));
	return DELIVERED_SAME_HOST;
}

int transit_xdp(struct xdp_md *ctx)
{
	__u32 arrival = arrived_on(ctx), length = frame_length(ctx), first = 0, leave_by = 0;
	struct local_droplet *local = local_droplet.lookup(&first);
	struct interface *sender;
	enum outcome outcome;

	if (local && local->ifindex == arrival) {
		count(RECEIVED_FROM_SUBSTRATE, length);
		leave_by = arrival;
		outcome = from_substrate(ctx, local, &leave_by);
		count(outcome, length);
		return verdict(outcome, leave_by);
	}
	sender = sender_on(arrival);
	if (sender) {
		outcome = from_same_host(ctx, sender, &leave_by);
		count_sender(slot_of(arrival), outcome, length);
	} else {
		/* Open before this droplet is configured, closed for an endpoint that is being removed. */
		count(RECEIVED_FROM_SUBSTRATE, length);
		outcome = local && local->ifindex ? UNKNOWN_INTERFACE : PASSED;
	}
	count(outcome, length);
	return verdict(outcome, leave_by);
}
