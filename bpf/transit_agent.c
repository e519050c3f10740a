// SPDX-License-Identifier: GPL-2.0-only
/*
 * The transit agent: all that endpoints send. One program on the host side of every endpoint's veth, which finds its
 * endpoint by the interface that the frame came in on.
 */
#include "hooks/xdp.h"
#include "lib/arp.h"
#include "lib/direct_path.h"
#include "lib/endpoint.h"
#include "lib/gateway.h"
#include "lib/icmp.h"
#include "lib/nd.h"
#include "lib/next_hop.h"
#include "lib/state.h"

/* What is known of a packet on its way out. */
struct departure {
	struct packet *packet;
	struct tunnel *tunnel;
	struct transport *transport;
	struct local_droplet *local; /* by which it leaves; NULL when it is not configured yet */
	struct next_hop *hop;	     /* that leads to tunnel.peer; NULL when it is to be found yet */
	__u32 flow;
	__u32 receiver; /* the interface of an endpoint of this host that gets it */
};

/* Whether tunnel.peer may be sent to straight: not when it does not answer probes, or nothing leads there. */
static __always_inline bool is_reachable(struct departure *departure)
{
	struct local_droplet *local = departure->local;
	struct next_hop *hop;

	if (!local)
		return true;
	hop = find_hop(departure->tunnel, &local);
	if (!is_up(hop))
		return false;
	departure->hop = hop;
	departure->local = local;
	return true;
}

/*
 * A path to the destination that was heard on lately: SENT_DIRECT, with tunnel.peer filled, or GO_ON when there is none
 * that may be taken. `*pinned` becomes true where it shows that only a divider leads to other networks.
 */
static __always_inline enum outcome by_path(struct departure *departure, bool *pinned)
{
	struct direct_path *path = direct.lookup(&departure->packet->to);

	if (!path || age_of(path) >= DIRECT_LIFETIME) /* open: documents, then a bouncer */
		return GO_ON;
	*pinned |= path->flags & PATH_PINNED;
	copy_address(&departure->tunnel->peer.address, &path->host);
	if (*pinned && is_between_networks(departure->packet))
		return GO_ON;
	return is_reachable(departure) ? SENT_DIRECT : GO_ON;
}

/* ASKS for a request that is to be answered elsewhere. */
static __always_inline enum outcome arp_from_endpoint(context *ctx, const struct interface *sender,
						      struct departure *departure)
{
	struct ethhdr *ethernet = frame_start(ctx);
	struct arp *arp = (void *)(ethernet + 1);
	struct packet *packet = departure->packet;
	const __u8 gateway[6] = GATEWAY_MAC;
	struct endpoint *endpoint;
	struct network *network;
	enum outcome outcome = check_arp(ethernet, frame_end(ctx), departure->tunnel->length);

	if (outcome != GO_ON)
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
	if (!endpoint) { /* open: its own host or a bouncer may know it */
		if (is_multicast(arp->target) || is_subnet_broadcast(&packet->to))
			return MULTICAST;
		return ASKS;
	}
	answer_arp(ethernet, arp, endpoint->mac);
	return ARP_ANSWERED;
}

/* GO_ON when a solicitation is the endpoint's own: from its address, from :: or from a link-local one. */
static __always_inline enum outcome check_solicitor(struct ethhdr *ethernet, void *end, const struct interface *sender,
						    const struct packet *packet, const struct solicitation *asked)
{
	struct ipv6hdr *ip = (void *)(ethernet + 1);
	struct nd *nd = (void *)(ip + 1);

	if (is_unspecified(&sender->ipv6))
		return SOURCE_ND;
	if (!asked->detects && !is_link_local(&packet->from.address) &&
	    !same_address(&packet->from.address, &sender->ipv6))
		return SOURCE_ND;
	if ((void *)(nd + 1) <= end && packet->length >= ND_ANSWER && nd->option == ND_SOURCE_MAC &&
	    !same_mac(nd->option_mac, sender->mac))
		return SOURCE_ND;
	if (same_address(&asked->target, &sender->ipv6) || is_link_local(&asked->target))
		return ND_OWN_ADDRESS;
	return GO_ON;
}

/*
 * Gives a solicitation the endpoint's own address as its source, to which a bouncer's answer finds: also one that
 * probes for duplicates, so that who asks is known there. An advertisement of the target ends the probe all the same
 * (RFC 4862 section 5.4.4).
 */
static __always_inline void set_solicitor(struct ethhdr *ethernet, const struct interface *sender)
{
	struct ipv6hdr *ip = (void *)(ethernet + 1);
	struct nd *nd = (void *)(ip + 1);
	__u64 before = sum_words(&ip->saddr, 4), after = sum_words(&sender->ipv6, 4);

	nd->check = checksum_replace(nd->check, sum_fold(before), sum_fold(after));
	copy_address((struct address *)&ip->saddr, &sender->ipv6);
}

/* ASKS as arp_from_endpoint() does. */
static __always_inline enum outcome nd_from_endpoint(context *ctx, const struct interface *sender,
						     struct departure *departure)
{
	struct ethhdr *ethernet = frame_start(ctx);
	struct packet *packet = departure->packet;
	const __u8 gateway[6] = GATEWAY_MAC;
	struct solicitation asked = {};
	struct overlay_key own KEY;
	struct endpoint *endpoint;
	struct network *network;
	enum outcome outcome = check_nd(ethernet, frame_end(ctx), packet, departure->transport, &asked);

	if (outcome == GO_ON)
		outcome = check_solicitor(ethernet, frame_end(ctx), sender, packet, &asked);
	if (outcome != GO_ON)
		return outcome;
	set_key_ipv6(&own, sender->vni, &sender->ipv6);
	network = network_of(&own);
	if (!network) /* closed, as for ARP */
		return NO_NETWORK;
	if (same_address(&asked.target, &network->gateway))
		return answer_nd(ctx, 0, packet, &asked, gateway, ND_ANSWERED);
	set_key_ipv6(&packet->to, sender->vni, &asked.target);
	endpoint = endpoints.lookup(&packet->to);
	if (endpoint) /* a miss is open: its own host or a bouncer may know it */
		return answer_nd(ctx, 0, packet, &asked, endpoint->mac, ND_ANSWERED);
	set_solicitor(ethernet, sender);
	departure->tunnel->tos = sender->tos;
	packet->from = own;
	return ASKS;
}

/* A packet between networks that only dividers connect. GO_ON when this host is a divider itself. */
static __always_inline enum outcome by_divider(struct departure *departure)
{
	__u32 vni = departure->packet->to.vni;
	struct vpc *vpc = vpcs.lookup(&vni);

	if (!vpc) /* closed: past a divider there is no other way */
		return NO_VPC;
	if (vpc->flags & VPC_DIVIDED_HERE)
		return GO_ON;
	departure->tunnel->attempt = recall_attempt(departure->packet);
	return to_divider(vpc, departure->packet, departure->tunnel, SENT_TO_DIVIDER);
}

/* Neither this host nor a direct path knows the destination: the own network's bouncers do, maybe this one. */
static __always_inline enum outcome find_by_network(struct ethhdr *ethernet, void *end, struct departure *departure)
{
	struct packet *packet = departure->packet;
	struct network *network = network_of(&packet->from);

	if (!network) /* closed: nobody is known who knows more */
		return NO_NETWORK;
	if (same_address(&packet->to.address, &network->gateway))
		return answer_echo(ethernet, end, packet, departure->transport);
	departure->tunnel->attempt = recall_attempt(packet);
	if (network->flags & NETWORK_BOUNCED_HERE)
		return hand_on(packet, departure->tunnel);
	return to_bouncer(network, packet, departure->tunnel, SENT_TO_BOUNCER);
}

static __always_inline enum outcome find_endpoint(struct ethhdr *ethernet, void *end, struct departure *departure,
						  bool pinned)
{
	struct tunnel *tunnel = departure->tunnel;
	struct endpoint *endpoint = endpoints.lookup(&departure->packet->to);
	enum outcome outcome = GO_ON;

	if (!endpoint) { /* open: the own network's bouncers may know it */
		if (is_subnet_broadcast(&departure->packet->to))
			return MULTICAST;
		if (pinned && is_between_networks(departure->packet))
			outcome = by_divider(departure);
		return outcome == GO_ON ? find_by_network(ethernet, end, departure) : outcome;
	}
	if ((pinned || endpoint->flags & ENDPOINT_PINNED) && is_between_networks(departure->packet))
		outcome = by_divider(departure);
	if (outcome != GO_ON)
		return outcome;
	if (endpoint->ifindex) {
		tunnel->fits = endpoint->mtu;
		departure->receiver = ifindex_of(endpoint);
		return fits(endpoint, tunnel->length) ? DELIVERED_SAME_HOST : DOES_NOT_FIT;
	}
	copy_address(&tunnel->peer.address, &endpoint->host);
	if (!is_reachable(departure)) {
		outcome = find_by_network(ethernet, end, departure);
		if (outcome != NO_ENDPOINT)
			return outcome;
		/* This host is the bouncer: it knows no other way than straight. */
	}
	if (VXLAN_PORT && endpoint->flags & ENDPOINT_VXLAN)
		tunnel->flags = TUNNEL_VXLAN;
	return SENT_DIRECT;
}

/*
 * Answers how the packet shall go, with tunnel.peer filled, or DELIVERED_SAME_HOST, or a drop. A path that was heard on
 * lately comes first, then what documents say, then who knows more.
 */
static __always_inline enum outcome find_way(struct ethhdr *ethernet, void *end, const struct interface *sender,
					     struct departure *departure)
{
	bool pinned = sender->flags & INTERFACE_PINNED;

	if (by_path(departure, &pinned) == SENT_DIRECT)
		return SENT_DIRECT;
	return find_endpoint(ethernet, end, departure, pinned);
}

/*
 * How a question for an address goes that is not known here: to the host that was heard from lately, which knows it for
 * certain and answers though every bouncer is down, else to a bouncer of the sender's own network.
 */
static __always_inline enum outcome ask(const struct interface *sender, struct departure *departure)
{
	bool pinned = sender->flags & INTERFACE_PINNED;
	struct network *network;

	if (by_path(departure, &pinned) == SENT_DIRECT)
		return SENT_DIRECT;
	network = network_of(&departure->packet->from);
	if (!network) /* closed: it has just gone */
		return NO_NETWORK;
	if (network->flags & NETWORK_BOUNCED_HERE)
		return NO_ENDPOINT;
	departure->tunnel->attempt = recall_attempt(departure->packet);
	return to_bouncer(network, departure->packet, departure->tunnel, SENT_TO_BOUNCER);
}

static __always_inline bool is_own_source(const struct packet *packet, const struct interface *sender)
{
	if (INNER_IPV6 && packet->kind == ETH_P_IPV6)
		return same_address(&packet->from.address, &sender->ipv6) && !is_unspecified(&sender->ipv6);
	return unmapped(&packet->from.address) == sender->ipv4 && sender->ipv4;
}

/*
 * GO_ON for a packet of the sender's own that the overlay carries: to one receiver. What goes to many, by IP or by
 * Ethernet, goes nowhere, whoever it is from: hosts without an address yet greet their link so.
 */
static __always_inline enum outcome check_ends(const struct ethhdr *ethernet, const struct packet *packet,
					       const struct interface *sender)
{
	if (is_group(ethernet->h_dest) || is_to_many(packet))
		return MULTICAST;
	if (!is_own_source(packet, sender))
		return SOURCE_ADDRESS;
	if (INNER_IPV6 && packet->kind == ETH_P_IPV6 && is_link_local(&packet->to.address))
		return LINK_LOCAL;
	return GO_ON;
}

static __always_inline enum outcome packet_from_endpoint(context *ctx, const struct interface *sender,
							 struct departure *departure)
{
	void *end = frame_end(ctx);
	struct ethhdr *ethernet = frame_start(ctx);
	struct packet *packet = departure->packet;
	struct tunnel *tunnel = departure->tunnel;
	__u32 slot = slot_of(arrived_on(ctx));
	enum outcome outcome = find_transport(ethernet, end, packet, departure->transport);

	if (outcome != GO_ON)
		return outcome;
	if (INNER_IPV6 && packet->kind == ETH_P_IPV6 && hides_nd(ethernet, end, packet, departure->transport))
		return MALFORMED_INNER;
	if (INNER_IPV6 && packet->kind == ETH_P_IPV6 && is_nd(ethernet, end, departure->transport))
		return nd_from_endpoint(ctx, sender, departure);
	outcome = check_ends(ethernet, packet, sender);
	if (outcome == GO_ON)
		outcome = hash_flow(ethernet, end, slot, packet, departure->transport, &departure->flow);
	if (outcome != GO_ON)
		return outcome;
	tunnel->fits = sender->mtu;
	if (tunnel->length > sizeof(*ethernet) + sender->mtu)
		return DOES_NOT_FIT;
	tunnel->tos = sender->tos | (packet->tos & ECN_MASK);
	outcome = find_way(ethernet, end, sender, departure);
	if (outcome < FIRST_FORWARDED || outcome >= FIRST_DROPPED || !is_gateway(ethernet->h_dest))
		return outcome;
	return route_inner(ethernet, packet) == GO_ON ? outcome : INNER_TTL;
}

static __always_inline enum outcome from_endpoint(context *ctx, const struct interface *sender,
						  struct departure *departure)
{
	struct ethhdr *ethernet = frame_start(ctx);
	__u32 index = sender->droplet;
	enum outcome outcome;

	if ((void *)(ethernet + 1) > frame_end(ctx))
		return MALFORMED_INNER;
	if (!same_mac(ethernet->h_source, sender->mac))
		return SOURCE_MAC;
	departure->local = local_droplets.lookup(&index); /* closed where it is needed: NO_LOCAL_DROPLET */
	if (departure->local && !departure->local->interface)
		departure->local = 0;
	outcome = read_packet(ethernet, frame_end(ctx), frame_length(ctx), sender->vni, departure->packet);
	if (outcome == GO_ON)
		return packet_from_endpoint(ctx, sender, departure);
	if (outcome == INNER_PROTOCOL && ethertype(ethernet) == bpf_htons(ETH_P_ARP)) {
		departure->tunnel->tos = sender->tos;
		return arp_from_endpoint(ctx, sender, departure);
	}
	return outcome == INNER_PROTOCOL && is_group(ethernet->h_dest) ? MULTICAST : outcome;
}

/* Sends the frame into the tunnel that leads to tunnel.peer. */
static __always_inline enum outcome send_out(context *ctx, const struct interface *sender, struct departure *departure,
					     enum outcome sent, __u32 *leave_by)
{
	struct tunnel *tunnel = departure->tunnel;
	struct next_hop *hop = departure->hop;
	__u64 inner = 0;
	bool ipv6;

	if (!departure->local)
		return NO_LOCAL_DROPLET;
	if (!hop)
		hop = find_hop(tunnel, &departure->local);
	if (!hop) /* closed: without the neighbour's address there is nowhere to send */
		return why_no_hop(tunnel, departure->local);
	ipv6 = is_over_ipv6(departure->local);
	tunnel->source_port = bpf_htons(EPHEMERAL_FIRST + (departure->flow & EPHEMERAL_MASK));
	tunnel->ttl = NEW_TTL;
	if (sent != SENT_DIRECT) {
		tunnel->flags = TUNNEL_RETURNS;
		tunnel->rts = (sender->flags & INTERFACE_PINNED ? RTS_PINNED : 0) |
			      (sent == HANDED_TO_BOUNCER ? RTS_DIVIDED : 0);
		copy_address(&tunnel->origin, &departure->local->address);
	}
	tunnel->fits = endpoint_mtu(hop, ipv6);
	if (!fits_through(tunnel, hop, ipv6))
		return DOES_NOT_FIT;
	*leave_by = departure->local->leaves;
	if (ipv6 && !is_unsummed(departure->local, hop))
		inner = sum_inner(frame_start(ctx), frame_end(ctx), tunnel->length, departure->packet,
				  departure->transport);
	return send(ctx, departure->local, tunnel, hop, inner, sent);
}

/* What becomes of a frame that an endpoint sent. */
static __always_inline enum outcome outcome_of(context *ctx, const struct interface *sender, __u32 length,
					       __u32 *leave_by)
{
	struct frame_state *state = new_state(length);
	struct departure departure = {};
	enum outcome outcome;

	if (!state)
		return NO_PROGRAM;
	departure.packet = &state->packet;
	departure.tunnel = &state->tunnel;
	departure.transport = &state->transport;
	departure.tunnel->vni = sender->vni;
	departure.tunnel->length = length;
	outcome = forgotten(from_endpoint(ctx, sender, &departure));
	if (outcome == ASKS)
		outcome = forgotten(ask(sender, &departure));
	if (outcome == DELIVERED_SAME_HOST)
		outcome = go_on_in_xdp(ctx, state, departure.receiver);
	if (outcome >= FIRST_SENT && outcome < FIRST_DROPPED)
		outcome = forgotten(send_out(ctx, sender, &departure, outcome, leave_by));
	if (outcome < FIRST_DROPPED) /* most end here: by one comparison */
		return outcome;
	return is_to_be_told(outcome) ? go_on_in_errors(ctx, state, outcome) : outcome;
}

int transit_agent(struct xdp_md *ctx)
{
	__u32 arrival = arrived_on(ctx), length = frame_length(ctx), leave_by = arrival;
	struct interface *sender = sender_on(arrival);
	enum outcome outcome = UNKNOWN_INTERFACE;

	count(RECEIVED_FROM_ENDPOINT, length);
	if (sender) {
		outcome = outcome_of(ctx, sender, length, &leave_by);
		count_sender(slot_of(arrival), outcome, length);
	}
	count(outcome, length);
	return verdict(outcome, leave_by);
}
