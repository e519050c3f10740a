// SPDX-License-Identifier: GPL-2.0-only
/*
 * The transit agent: all that endpoints send. One program on the host side of every endpoint's veth, which finds its
 * endpoint by the interface that the frame came in on.
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
#include "gateway.h"

static __always_inline __be16 tunnel_port(void)
{
	__u32 first = 0;
	struct local_droplet *local = local_droplet.lookup(&first);

	return local ? local->port : 0; /* not configured yet: then nothing leaves */
}

/* Sends the frame into the tunnel that leads to tunnel->peer. */
static __always_inline enum outcome send_out(context *ctx, struct tunnel *tunnel, __u32 flow, __u32 *leave_by,
					     enum outcome sent)
{
	__u32 first = 0;
	struct local_droplet *local = local_droplet.lookup(&first);

	if (!local || !local->ifindex)
		return NO_LOCAL_DROPLET;
	tunnel->source_port = bpf_htons(EPHEMERAL_FIRST + (flow & EPHEMERAL_MASK));
	tunnel->ttl = NEW_TTL;
	tunnel->returns = sent != SENT_DIRECT;
	tunnel->origin = local->address;
	*leave_by = local->ifindex;
	return send(ctx, local, tunnel, sent);
}

/* Asks a bouncer of the sender's own network for an address that is not known here. */
static __always_inline enum outcome ask_bouncer(const struct overlay_key *own, const struct overlay_key *asked,
						const struct network *network, struct tunnel *tunnel)
{
	if (network->flags & NETWORK_BOUNCED_HERE)
		return NO_ENDPOINT;
	return to_bouncer((struct network *)network, own, asked, &tunnel->peer, SENT_TO_BOUNCER);
}

static __always_inline enum outcome arp_from_endpoint(context *ctx, const struct interface *sender,
						      struct tunnel *tunnel)
{
	struct ethhdr *ethernet = frame_start(ctx);
	struct arp *arp = (void *)(ethernet + 1);
	struct overlay_key own = {sender->vni, sender->address}, asked = {sender->vni};
	const __u8 gateway[6] = GATEWAY_MAC;
	struct endpoint *endpoint;
	struct network *network;
	enum outcome outcome = check_arp(ethernet, frame_end(ctx), tunnel->length);

	if (outcome != GO_ON)
		return outcome;
	if (arp->operation != bpf_htons(ARP_REQUEST))
		return ARP_OPCODE;
	if (!same_mac(arp->sender_mac, sender->mac) || (arp->sender && arp->sender != unmapped(&own.address)))
		return SOURCE_ARP;
	if (arp->target == unmapped(&own.address))
		return ARP_OWN_ADDRESS;
	network = network_of(&own);
	if (!network)
		return NO_NETWORK;
	asked.address = mapped(arp->target);
	if (same_address(&asked.address, &network->gateway)) {
		answer_arp(ethernet, arp, gateway);
		return ARP_ANSWERED;
	}
	endpoint = endpoints.lookup(&asked);
	if (!endpoint)
		return ask_bouncer(&own, &asked, network, tunnel);
	answer_arp(ethernet, arp, endpoint->mac);
	return ARP_ANSWERED;
}

/* A path that was heard on lately. */
static __always_inline bool find_direct(struct overlay_key *to, struct address *host)
{
	struct direct_path *path = direct.lookup(to);

	if (!path || age_of(path) >= DIRECT_LIFETIME)
		return false;
	copy_address(host, &path->host);
	return true;
}

/* Neither this host nor a direct path knows the destination: the own network's bouncers do, maybe this one. */
static __always_inline enum outcome find_by_network(struct ethhdr *ethernet, void *end, struct overlay_key *from,
						    struct overlay_key *to, struct tunnel *tunnel)
{
	struct network *network = network_of(from);

	if (!network)
		return NO_NETWORK;
	if (same_address(&to->address, &network->gateway))
		return answer_echo(ethernet, end);
	if (network->flags & NETWORK_BOUNCED_HERE)
		return hand_on(from, to, &tunnel->peer);
	return to_bouncer(network, from, to, &tunnel->peer, SENT_TO_BOUNCER);
}

/* Answers how the packet shall go, with tunnel->peer filled, or DELIVERED_SAME_HOST, or a drop. */
static __always_inline enum outcome find_way(struct ethhdr *ethernet, void *end, struct overlay_key *from,
					     struct overlay_key *to, struct tunnel *tunnel)
{
	struct endpoint *endpoint;

	if (find_direct(to, &tunnel->peer))
		return SENT_DIRECT;
	endpoint = endpoints.lookup(to);
	if (!endpoint)
		return find_by_network(ethernet, end, from, to, tunnel);
	if (endpoint->ifindex)
		return DELIVERED_SAME_HOST;
	copy_address(&tunnel->peer, &endpoint->host);
	return SENT_DIRECT;
}

static __always_inline enum outcome ipv4_from_endpoint(context *ctx, const struct interface *sender,
						       struct tunnel *tunnel, __u32 *flow)
{
	void *end = frame_end(ctx);
	struct ethhdr *ethernet = frame_start(ctx);
	struct iphdr *ip = (void *)(ethernet + 1);
	struct overlay_key from = {sender->vni, sender->address}, to KEY;
	enum outcome outcome = check_ipv4(ethernet, end, tunnel->length);

	if (outcome != GO_ON)
		return outcome;
	if (ip->saddr != unmapped(&sender->address))
		return SOURCE_ADDRESS;
	if (is_multicast(ip->daddr))
		return MULTICAST;
	outcome = hash_flow(ethernet, end, tunnel_port(), flow);
	if (outcome != GO_ON)
		return outcome;
	tunnel->tos = ip->tos;
	set_key(&to, sender->vni, ip->daddr);
	outcome = find_way(ethernet, end, &from, &to, tunnel);
	if (outcome < FIRST_FORWARDED || outcome >= FIRST_DROPPED || !is_gateway(ethernet->h_dest))
		return outcome;
	if (ip->ttl <= 1)
		return INNER_TTL;
	decrement_ttl(ip);
	return outcome;
}

static __always_inline enum outcome from_endpoint(context *ctx, const struct interface *sender, __u32 *leave_by)
{
	struct ethhdr *ethernet = frame_start(ctx);
	struct tunnel tunnel = {.vni = sender->vni, .length = frame_length(ctx)};
	enum outcome outcome;
	__u32 flow = 0;

	if ((void *)(ethernet + 1) > frame_end(ctx))
		return MALFORMED_INNER;
	if (!same_mac(ethernet->h_source, sender->mac))
		return SOURCE_MAC;
	if (ethertype(ethernet) == bpf_htons(ETH_P_IP))
		outcome = ipv4_from_endpoint(ctx, sender, &tunnel, &flow);
	else if (ethertype(ethernet) == bpf_htons(ETH_P_ARP))
		outcome = arp_from_endpoint(ctx, sender, &tunnel);
	else
		outcome = INNER_PROTOCOL;
	if (outcome < FIRST_FORWARDED || outcome >= FIRST_DROPPED || outcome == DELIVERED_SAME_HOST)
		return outcome;
	return send_out(ctx, &tunnel, flow, leave_by, outcome);
}

int transit_agent(struct xdp_md *ctx)
{
	__u32 arrival = arrived_on(ctx), length = frame_length(ctx), leave_by = arrival;
	struct interface *sender = sender_on(arrival);
	enum outcome outcome = UNKNOWN_INTERFACE;

	count(RECEIVED_FROM_ENDPOINT, length);
	if (sender) {
		outcome = from_endpoint(ctx, sender, &leave_by);
		if (outcome == DELIVERED_SAME_HOST) {
			programs.call(ctx, TRANSIT_XDP); /* which counts; it comes back only when it is not there */
			outcome = NO_PROGRAM;
		}
		count_sender(slot_of(arrival), outcome, length);
	}
	count(outcome, length);
	return verdict(outcome, leave_by);
}
