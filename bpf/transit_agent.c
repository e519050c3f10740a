// SPDX-License-Identifier: GPL-2.0-only
/*
 * The transit agent: all frames that endpoints send. One program on the host side of every endpoint's veth, which finds
 * the endpoint by the ifindex.
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

/* A packet that is being sent. */
struct egress {
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
	struct direct_path *path = direct.lookup(&egress->packet->to);

	if (!path || path_age(path) >= DIRECT_LIFETIME) /* open: documents, then a bouncer */
		return CONTINUE;
	*pinned |= path->flags & PATH_PINNED;
	copy_address(&egress->tunnel->peer.address, &path->host);
	if (*pinned && crosses_networks(egress->packet))
		return CONTINUE;
	return is_reachable(egress) ? SENT_DIRECT : CONTINUE;
}

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
		return fits_mtu(endpoint, tunnel->length) ? DELIVERED_SAME_HOST : EXCEEDS_MTU;
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

static __always_inline bool is_own_source(const struct packet *packet, const struct interface *sender)
{
	if (INNER_IPV6 && packet->kind == ETH_P_IPV6)
		return same_address(&packet->from.address, &sender->ipv6) && !is_unspecified(&sender->ipv6);
	return unmapped(&packet->from.address) == sender->ipv4 && sender->ipv4;
}

/*
 * CONTINUE for a packet from the endpoint's own address to a single receiver. Multicast is checked first: hosts without
 * an address send it, too.
 */
static __always_inline enum outcome check_addresses(const struct ethhdr *ethernet, const struct packet *packet,
						    const struct interface *sender)
{
	if (is_group_mac(ethernet->h_dest) || is_multicast_packet(packet))
		return MULTICAST;
	if (!is_own_source(packet, sender))
		return SOURCE_ADDRESS;
	if (INNER_IPV6 && packet->kind == ETH_P_IPV6 && is_link_local(&packet->to.address))
		return LINK_LOCAL;
	return CONTINUE;
}

static __always_inline enum outcome packet_from_endpoint(context *ctx, const struct interface *sender,
							 struct egress *egress)
{
	void *end = frame_end(ctx);
	struct ethhdr *ethernet = frame_start(ctx);
	struct packet *packet = egress->packet;
	struct tunnel *tunnel = egress->tunnel;
	__u32 slot = slot_of(ingress_ifindex(ctx));
	enum outcome outcome = find_transport(ethernet, end, packet, egress->transport);

	if (outcome != CONTINUE)
		return outcome;
	if (INNER_IPV6 && packet->kind == ETH_P_IPV6 && may_hide_nd(ethernet, end, packet, egress->transport))
		return MALFORMED_INNER;
	if (INNER_IPV6 && packet->kind == ETH_P_IPV6 && is_nd(ethernet, end, egress->transport))
		return nd_from_endpoint(ctx, sender, egress);
	outcome = check_addresses(ethernet, packet, sender);
	if (outcome == CONTINUE)
		outcome = hash_flow(ethernet, end, slot, packet, egress->transport, &egress->flow);
	if (outcome != CONTINUE)
		return outcome;
	tunnel->mtu = sender->mtu;
	if (tunnel->length > sizeof(*ethernet) + sender->mtu)
		return EXCEEDS_MTU;
	tunnel->tos = sender->tos | (packet->tos & ECN_MASK);
	outcome = find_route(ethernet, end, sender, egress);
	if (outcome < FIRST_FORWARDED || outcome >= FIRST_DROPPED || !is_gateway_mac(ethernet->h_dest))
		return outcome;
	return decrement_ttl(ethernet, packet) == CONTINUE ? outcome : INNER_TTL;
}

static __always_inline enum outcome from_endpoint(context *ctx, const struct interface *sender, struct egress *egress)
{
	struct ethhdr *ethernet = frame_start(ctx);
	__u32 index = sender->droplet;
	enum outcome outcome;

	if ((void *)(ethernet + 1) > frame_end(ctx))
		return MALFORMED_INNER;
	if (!same_mac(ethernet->h_source, sender->mac))
		return SOURCE_MAC;
	egress->local = local_droplets.lookup(&index); /* closed later, if needed: NO_LOCAL_DROPLET */
	if (egress->local && !egress->local->interface)
		egress->local = 0;
	outcome = read_packet(ethernet, frame_end(ctx), frame_length(ctx), sender->vni, egress->packet);
	if (outcome == CONTINUE)
		return packet_from_endpoint(ctx, sender, egress);
	if (outcome == INNER_PROTOCOL && ethertype(ethernet) == bpf_htons(ETH_P_ARP)) {
		egress->tunnel->tos = sender->tos;
		return arp_from_endpoint(ctx, sender, egress);
	}
	return outcome == INNER_PROTOCOL && is_group_mac(ethernet->h_dest) ? MULTICAST : outcome;
}

/* Encapsulates the frame and sends it to tunnel.peer. */
static __always_inline enum outcome send_out(context *ctx, const struct interface *sender, struct egress *egress,
					     enum outcome sent, __u32 *tx_ifindex)
{
	struct tunnel *tunnel = egress->tunnel;
	struct next_hop *hop = egress->hop;
	__u64 inner = 0;
	bool ipv6;

	if (!egress->local)
		return NO_LOCAL_DROPLET;
	if (!hop)
		hop = find_hop(tunnel, &egress->local);
	if (!hop) /* closed: it cannot be sent without an Ethernet address */
		return no_hop_reason(tunnel, egress->local);
	ipv6 = is_over_ipv6(egress->local);
	tunnel->source_port = bpf_htons(EPHEMERAL_FIRST + (egress->flow & EPHEMERAL_MASK));
	tunnel->ttl = NEW_TTL;
	if (sent != SENT_DIRECT) {
		tunnel->flags = TUNNEL_RTS;
		tunnel->rts = (sender->flags & INTERFACE_PINNED ? RTS_PINNED : 0) |
			      (sent == HANDED_TO_BOUNCER ? RTS_DIVIDED : 0);
		copy_address(&tunnel->origin, &egress->local->address);
	}
	tunnel->mtu = endpoint_mtu(hop, ipv6);
	if (!fits_path(tunnel, hop, ipv6))
		return EXCEEDS_MTU;
	*tx_ifindex = egress->local->tx_ifindex;
	if (ipv6 && !omits_checksum(egress->local, hop))
		inner = sum_inner(frame_start(ctx), frame_end(ctx), tunnel->length, egress->packet, egress->transport);
	return send(ctx, egress->local, tunnel, hop, inner, sent);
}

/* The outcome of a frame from an endpoint. */
static __always_inline enum outcome outcome_of(context *ctx, const struct interface *sender, __u32 length,
					       __u32 *tx_ifindex)
{
	struct frame_state *state = new_state(length);
	struct egress egress = {};
	enum outcome outcome;

	if (!state)
		return NO_PROGRAM;
	egress.packet = &state->packet;
	egress.tunnel = &state->tunnel;
	egress.transport = &state->transport;
	egress.tunnel->vni = sender->vni;
	egress.tunnel->length = length;
	outcome = unknown_scalar(from_endpoint(ctx, sender, &egress));
	if (outcome == RESOLVE_REMOTELY)
		outcome = unknown_scalar(route_request(sender, &egress));
	if (outcome == DELIVERED_SAME_HOST)
		outcome = call_transit_xdp(ctx, state, egress.receiver);
	if (outcome >= FIRST_SENT && outcome < FIRST_DROPPED)
		outcome = unknown_scalar(send_out(ctx, sender, &egress, outcome, tx_ifindex));
	if (outcome < FIRST_DROPPED) /* most frames take this return */
		return outcome;
	return needs_icmp_error(outcome) ? call_transit_errors(ctx, state, outcome) : outcome;
}

int transit_agent(struct xdp_md *ctx)
{
	__u32 rx_ifindex = ingress_ifindex(ctx), length = frame_length(ctx), tx_ifindex = rx_ifindex;
	struct interface *sender = find_interface(rx_ifindex);
	enum outcome outcome = UNKNOWN_INTERFACE;

	count(RECEIVED_FROM_ENDPOINT, length);
	if (sender) {
		outcome = outcome_of(ctx, sender, length, &tx_ifindex);
		count_sender(slot_of(rx_ifindex), outcome, length);
	}
	count(outcome, length);
	return verdict(outcome, tx_ifindex);
}
