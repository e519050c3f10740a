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
#include "packet.h"
#include "extension.h"
#include "tunnel.h"
#include "geneve.h"
#include "vxlan.h"
#include "outer.h"
#include "encapsulate.h"
#include "next_hop.h"
#include "route.h"
#include "arp.h"
#include "nd.h"
#include "gateway.h"
#include "icmp.h"
#include "probe.h"
#include "direct.h"
#include "learn.h"
#include "deliver.h"

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
	tunnel->bounces = 0;
	tunnel->tos &= ~ECN_MASK;
	tunnel->ttl = NEW_TTL;
	return sent;
}

/* Prepares a packet to go on to another droplet, tunnel->peer, in the name of this bouncer or divider. */
static __always_inline enum outcome send_on(const struct local_droplet *local, struct tunnel *tunnel, bool vxlan,
					    enum outcome sent)
{
	if (same_address(&tunnel->peer.address, &local->address))
		return NOT_HERE;
	if (tunnel->bounces >= MAX_BOUNCES)
		return TOO_MANY_BOUNCES;
	if (tunnel->ttl <= 1)
		return OUTER_TTL;
	if (tunnel->flags & TUNNEL_VXLAN)
		tunnel->rts |= RTS_UNLEARNT | RTS_VXLAN;
	tunnel->flags = vxlan ? TUNNEL_VXLAN : TUNNEL_RETURNS;
	tunnel->bounces++;
	tunnel->ttl--;
	return sent;
}

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

static __always_inline enum outcome deliver_from_tunnel(context *ctx, struct tunnel *tunnel, struct packet *packet,
							struct ethhdr *ethernet, const struct endpoint *endpoint,
							bool on_path, __u32 *leave_by)
{
	bool known = on_path || tunnel->flags & TUNNEL_INVALIDATES;
	enum outcome outcome = known ? GO_ON : learn(tunnel, &packet->from, endpoint);

	if (outcome != GO_ON)
		return outcome;
	if (!fits(endpoint, tunnel->length)) {
		tunnel->fits = endpoint->mtu;
		return DOES_NOT_FIT;
	}
	return deliver(ctx, tunnel, ethernet, endpoint, leave_by);
}

/* Whether a packet must pass a divider before it may go on; `endpoint` may be NULL. */
static __always_inline bool is_undivided(const struct tunnel *tunnel, const struct packet *packet,
					 const struct endpoint *endpoint)
{
	if (!(tunnel->flags & (TUNNEL_RETURNS | TUNNEL_VXLAN | TUNNEL_INVALIDATES)) || tunnel->rts & RTS_DIVIDED)
		return false;
	if (!(tunnel->rts & RTS_PINNED) && !(endpoint && endpoint->flags & ENDPOINT_PINNED))
		return false;
	return is_between_networks(packet);
}

/* A packet between networks that must pass a divider: GO_ON when this droplet is one. */
static __always_inline enum outcome divide(struct tunnel *tunnel, const struct packet *packet)
{
	__u32 vni = packet->to.vni;
	struct vpc *vpc = vpcs.lookup(&vni);

	if (!vpc) /* closed: past a divider there is no other way */
		return NO_VPC;
	tunnel->rts |= RTS_DIVIDED;
	if (vpc->flags & VPC_DIVIDED_HERE)
		return GO_ON;
	tunnel->rts &= ~RTS_DIVIDED;
	return to_divider(vpc, packet, &tunnel->peer.address, HANDED_TO_DIVIDER);
}

/*
 * A packet of an endpoint of this host came back, for its destination has left the droplet that it was sent to: that
 * path is forgotten, and the packet goes as it would have gone without it, from here anew.
 */
static __always_inline enum outcome take_back(const struct local_droplet *local, struct tunnel *tunnel,
					      struct packet *packet)
{
	struct endpoint *sender = endpoints.lookup(&packet->from);
	struct direct_path *path = direct.lookup(&packet->to);
	struct network *network = network_of(&packet->from);

	if (!sender || !sender->ifindex) /* closed: nobody else's path is forgotten, nobody else's packet sent */
		return NOT_HERE;
	if (path && same_address(&path->host, &tunnel->peer.address)) /* open: another path, or none, stays as it is */
		direct.delete(&packet->to);
	if (!network) /* closed: nobody knows more */
		return NO_NETWORK;
	tunnel->rts = network->flags & NETWORK_PINNED ? RTS_PINNED : 0;
	copy_address(&tunnel->origin, &local->address);
	return GO_ON;
}

static __always_inline enum outcome reroute(const struct local_droplet *local, struct tunnel *tunnel,
					    struct packet *packet, const struct endpoint *destination)
{
	struct network *network = network_of(&packet->from);
	enum outcome outcome;

	if (!network) /* closed, as in take_back() */
		return NO_NETWORK;
	if (destination && !same_address(&destination->host, &tunnel->peer.address)) {
		copy_address(&tunnel->peer.address, &destination->host);
		return send_on(local, tunnel, destination->flags & ENDPOINT_VXLAN, REROUTED);
	}
	if (network->flags & NETWORK_BOUNCED_HERE)
		outcome = hand_on(packet, &tunnel->peer.address);
	else
		outcome = to_bouncer(network, packet, &tunnel->peer.address, REROUTED);
	return outcome < FIRST_DROPPED ? send_on(local, tunnel, false, REROUTED) : outcome;
}

/* A packet that came straight for an endpoint that is not here goes back: its sender's droplet knows what to do. */
static __always_inline enum outcome give_back(struct tunnel *tunnel)
{
	tunnel->flags = TUNNEL_INVALIDATES;
	tunnel->ttl = NEW_TTL;
	return RETURNED;
}

static __always_inline bool is_to_many(const struct packet *packet)
{
	if (INNER_IPV6 && packet->kind == ETH_P_IPV6)
		return is_multicast_ipv6(&packet->to.address);
	return is_multicast(unmapped(&packet->to.address));
}

/* A VXLAN peer's bridge floods what it has not learnt, also what is for an endpoint of its own: that never returns. */
static __always_inline bool is_its_own(const struct tunnel *tunnel, const struct endpoint *endpoint)
{
	return tunnel->flags & TUNNEL_VXLAN && same_address(&endpoint->host, &tunnel->peer.address);
}

/* A packet whose destination is not on this host, by this droplet's roles. */
static __always_inline enum outcome pass_on(const struct local_droplet *local, struct tunnel *tunnel,
					    struct packet *packet, const struct endpoint *endpoint)
{
	bool direct_hit = !(tunnel->flags & (TUNNEL_RETURNS | TUNNEL_VXLAN));
	enum outcome outcome = BOUNCED;

	if (tunnel->flags & TUNNEL_INVALIDATES)
		return reroute(local, tunnel, packet, endpoint);
	if (endpoint) {
		if (is_its_own(tunnel, endpoint))
			return NOT_HERE;
		copy_address(&tunnel->peer.address, &endpoint->host);
		return send_on(local, tunnel, endpoint->flags & ENDPOINT_VXLAN, BOUNCED);
	}
	if (is_to_many(packet))
		return MULTICAST;
	outcome = hand_on(packet, &tunnel->peer.address);
	if (outcome < FIRST_DROPPED) {
		if (outcome == HANDED_TO_BOUNCER)
			tunnel->rts |= RTS_DIVIDED;
		return send_on(local, tunnel, false, outcome);
	}
	return direct_hit ? give_back(tunnel) : outcome;
}

static __always_inline enum outcome packet_from_tunnel(context *ctx, const struct local_droplet *local,
						       struct tunnel *tunnel, struct packet *packet,
						       struct ethhdr *ethernet, bool on_path, __u32 *leave_by)
{
	enum outcome outcome = merge_ecn(ethernet, packet, tunnel->tos);
	struct endpoint *endpoint;
	bool undivided;

	if (outcome == GO_ON && tunnel->flags & TUNNEL_INVALIDATES)
		outcome = take_back(local, tunnel, packet);
	if (outcome != GO_ON)
		return outcome;
	tunnel->tos = (tunnel->tos & ~ECN_MASK) | (packet->tos & ECN_MASK);
	endpoint = endpoints.lookup(&packet->to);
	undivided = is_undivided(tunnel, packet, endpoint);
	if (VXLAN_PORT && tunnel->flags & TUNNEL_VXLAN) {
		outcome = check_vxlan_source(ethernet, frame_end(ctx), tunnel, packet,
					     undivided || !endpoint || !endpoint->ifindex);
		if (outcome != GO_ON)
			return outcome;
	}
	if (undivided) {
		outcome = divide(tunnel, packet);
		if (outcome != GO_ON)
			return outcome < FIRST_DROPPED ? send_on(local, tunnel, false, outcome) : outcome;
	}
	if (endpoint && endpoint->ifindex) /* a miss is closed, but for this droplet's roles */
		return deliver_from_tunnel(ctx, tunnel, packet, ethernet, endpoint, on_path, leave_by);
	return pass_on(local, tunnel, packet, endpoint);
}

/* The endpoint that a request asks for, when this droplet is to answer: it bounces its network, or the endpoint is
 * here. */
static __always_inline enum outcome find_asked(const struct tunnel *tunnel, const struct overlay_key *asked,
					       struct endpoint **endpoint)
{
	struct network *network = network_of(asked);

	*endpoint = endpoints.lookup(asked);
	if (*endpoint && (*endpoint)->ifindex)
		return GO_ON;
	/* Closed: who does not bounce the network says nothing of others, and its bouncer nothing of who is not there.
	 */
	if (!network || !(network->flags & NETWORK_BOUNCED_HERE) || (*endpoint && is_its_own(tunnel, *endpoint)))
		return NOT_HERE;
	return *endpoint ? GO_ON : NO_ENDPOINT;
}

static __always_inline enum outcome arp_from_tunnel(context *ctx, const struct local_droplet *local,
						    struct tunnel *tunnel, struct ethhdr *ethernet, __u32 *leave_by)
{
	struct arp *arp = (void *)(ethernet + 1);
	struct overlay_key asked KEY;
	struct endpoint *endpoint;
	enum outcome outcome = check_arp(ethernet, frame_end(ctx), tunnel->length);

	if (outcome != GO_ON)
		return outcome;
	set_key(&asked, tunnel->vni, arp->target);
	if (arp->operation == bpf_htons(ARP_REQUEST)) {
		outcome = find_asked(tunnel, &asked, &endpoint);
		if (outcome != GO_ON)
			return outcome;
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
	outcome = find_asked(tunnel, &target, &endpoint);
	if (outcome != GO_ON)
		return outcome;
	/* A peer that is no droplet of ours leaves :: as the source. */
	if (asked.detects && same_address(&endpoint->host, &tunnel->origin))
		return ND_OWN_ADDRESS;
	outcome = answer_nd(ctx, tunnel->headers, packet, &asked, endpoint->mac, GO_ON);
	if (outcome != GO_ON)
		return outcome;
	tunnel->length = ND_ANSWER;
	return to_origin(local, tunnel, ND_ANSWERED_REMOTE);
}

/* Only bouncers advertise, and say by RTS that they do: nobody else is believed about Ethernet addresses. */
static __always_inline bool is_answer(void *start, void *end, const struct tunnel *tunnel,
				      const struct transport *transport)
{
	return tunnel->flags & TUNNEL_RETURNS && is_advertisement(start, end, transport);
}

static __always_inline enum outcome ipv6_from_tunnel(context *ctx, const struct local_droplet *local,
						     struct tunnel *tunnel, struct packet *packet,
						     struct ethhdr *ethernet, bool on_path, __u32 *leave_by)
{
	struct transport transport = {};
	enum outcome outcome = find_transport(ethernet, frame_end(ctx), packet, &transport);

	/* A peer that speaks VXLAN has not looked for neighbour discovery: closed where it may be. */
	if (VXLAN_PORT && outcome != GO_ON && tunnel->flags & TUNNEL_VXLAN)
		return outcome;
	if (outcome == GO_ON) {
		if (hides_nd(ethernet, frame_end(ctx), packet, &transport))
			return MALFORMED_INNER;
		if (is_nd(ethernet, frame_end(ctx), &transport)) {
			outcome = nd_from_tunnel(ctx, local, tunnel, packet, &transport, ethernet);
			if (outcome != ND_TYPE || !is_answer(ethernet, frame_end(ctx), tunnel, &transport))
				return outcome;
		}
	}
	return packet_from_tunnel(ctx, local, tunnel, packet, ethernet, on_path, leave_by);
}

static __always_inline enum outcome frame_from_tunnel(context *ctx, const struct local_droplet *local,
						      struct tunnel *tunnel, struct packet *packet, __u32 *leave_by)
{
	struct ethhdr *ethernet = frame_start(ctx) + bounded(tunnel->headers, MAX_HEADERS);
	enum outcome outcome = MALFORMED_GENEVE, known;
	bool on_path = false;

	if ((void *)(ethernet + 1) <= frame_end(ctx))
		outcome = read_packet(ethernet, frame_end(ctx), tunnel->length, tunnel->vni, packet);
	if (outcome == GO_ON && !tunnel->flags)
		on_path = confirmed_lately(&packet->from, &tunnel->peer.address);
	known = check_peer(local, tunnel, on_path);
	if (known != GO_ON)
		return known;
	if (outcome == GO_ON && INNER_IPV6 && packet->kind == ETH_P_IPV6)
		return ipv6_from_tunnel(ctx, local, tunnel, packet, ethernet, on_path, leave_by);
	if (outcome == GO_ON)
		return packet_from_tunnel(ctx, local, tunnel, packet, ethernet, on_path, leave_by);
	if (outcome == INNER_PROTOCOL && ethertype(ethernet) == bpf_htons(ETH_P_ARP))
		return arp_from_tunnel(ctx, local, tunnel, ethernet, leave_by);
	return outcome;
}

/* `outcome` is what the outer headers came to: whose they are, is known. */
static __always_inline enum outcome from_tunnel(context *ctx, const struct local_droplet *local, struct tunnel *tunnel,
						struct packet *packet, enum outcome outcome, __u32 *leave_by)
{
	enum outcome known;

	if (outcome == GO_ON && !(tunnel->flags & TUNNEL_CONTROL))
		return frame_from_tunnel(ctx, local, tunnel, packet, leave_by);
	known = check_peer(local, tunnel, false);
	if (known != GO_ON || outcome != GO_ON)
		return known != GO_ON ? known : outcome;
	return tunnel->flags & TUNNEL_PROBE ? reflect(ctx, local, tunnel) : GENEVE_CONTROL;
}

static __always_inline enum outcome forward(context *ctx, struct local_droplet *local, struct tunnel *tunnel,
					    enum outcome outcome, __u32 *leave_by)
{
	struct next_hop *hop = find_hop(tunnel, &local);

	if (!hop) /* closed: without the neighbour's address there is nowhere to send */
		return why_no_hop(tunnel, local);
	/* An IPv4 packet has no room for an IPv6 origin: answers take the way back by this droplet. */
	if (OUTER_IPV4 && !is_over_ipv6(local) && !is_ipv4(&tunnel->origin) &&
	    overhead(tunnel, false) + tunnel->length <= hop->mtu) {
		copy_address(&tunnel->origin, &local->address);
		tunnel->rts = (tunnel->rts & ~RTS_VXLAN) | RTS_UNLEARNT;
	}
	*leave_by = local->leaves;
	tunnel->fits = endpoint_mtu(hop, is_over_ipv6(local));
	return send(ctx, local, tunnel, hop, 0, outcome);
}

/* What came back was sent by an endpoint of this host, which is told here. */
static __always_inline enum outcome tell_own(struct packet *packet, __u32 *leave_by)
{
	struct endpoint *sender = endpoints.lookup(&packet->from);
	__u32 ifindex = sender ? ifindex_of(sender) : 0;

	if (!receiver_on(ifindex, packet->from.vni)) /* closed: it has just gone */
		return TOO_BIG;
	*leave_by = ifindex;
	return TOO_BIG_TOLD;
}

/*
 * Tells the sender of a packet that came through a tunnel what would have fitted. `came_by` is the tunnel's flags as
 * they were read: what the sender's droplet speaks.
 */
static __always_inline enum outcome tell_remote(context *ctx, struct local_droplet *local, struct tunnel *tunnel,
						struct packet *packet, __u8 came_by, __u32 *leave_by)
{
	struct complaint complaint = {.mtu = tunnel->fits, .from = tunnel->headers};
	struct ethhdr *ethernet = frame_start(ctx) + bounded(tunnel->headers, MAX_HEADERS);
	enum outcome outcome;

	if (!complaint.mtu || !is_told(ethernet, frame_end(ctx), packet, &complaint))
		return TOO_BIG;
	outcome = complain(ctx, packet, &complaint, TOO_BIG);
	if (outcome != DOES_NOT_FIT)
		return outcome;
	if (came_by & TUNNEL_INVALIDATES)
		return tell_own(packet, leave_by);
	tunnel->headers = 0;
	tunnel->length = frame_length(ctx);
	tunnel->flags = came_by;
	outcome = to_origin(local, tunnel, TOO_BIG_TOLD_REMOTE);
	if (outcome >= FIRST_DROPPED)
		return outcome;
	outcome = forward(ctx, local, tunnel, outcome, leave_by);
	return outcome == DOES_NOT_FIT ? TOO_BIG : outcome;
}

static __always_inline enum outcome from_substrate(context *ctx, __u32 *leave_by)
{
	struct local_droplet *local = 0;
	struct tunnel tunnel = {};
	struct packet packet = {};
	enum outcome outcome = forgotten(parse_outer(ctx, &tunnel, &local));
	__u8 came_by = tunnel.flags;

	if (!local)
		return PASSED;
	if (outcome == OUTER_FRAGMENT || outcome == OUTER_OPTIONS || outcome == MALFORMED_OUTER ||
	    outcome == OUTER_CHECKSUM)
		return outcome;
	outcome = forgotten(from_tunnel(ctx, local, &tunnel, &packet, outcome, leave_by));
	if (outcome >= FIRST_SENT && outcome < FIRST_DROPPED)
		outcome = forward(ctx, local, &tunnel, outcome, leave_by);
	return outcome == DOES_NOT_FIT ? tell_remote(ctx, local, &tunnel, &packet, came_by, leave_by) : outcome;
}

/* The transit agent has checked the frame, the source, the length and the time to live. */
static __always_inline enum outcome from_same_host(context *ctx, const struct interface *sender, __u32 *leave_by)
{
	struct ethhdr *ethernet = frame_start(ctx);
	struct packet packet = {};
	struct endpoint *endpoint;
	struct interface *receiver;
	__u32 ifindex;

	if ((void *)(ethernet + 1) > frame_end(ctx))
		return MALFORMED_INNER;
	if (read_packet(ethernet, frame_end(ctx), frame_length(ctx), sender->vni, &packet) != GO_ON)
		return MALFORMED_INNER;
	endpoint = endpoints.lookup(&packet.to);
	ifindex = endpoint ? ifindex_of(endpoint) : 0;
	receiver = receiver_on(ifindex, sender->vni);
	if (!receiver) /* closed: it has just gone, or left this host */
		return NOT_HERE;
	address_to(ethernet, receiver);
	*leave_by = ifindex;
	count_delivered(slot_of(ifindex), frame_length(ctx));
	return DELIVERED_SAME_HOST;
}

int transit_xdp(struct xdp_md *ctx)
{
	__u32 arrival = arrived_on(ctx), length = frame_length(ctx), leave_by = arrival;
	struct interface *sender;
	enum outcome outcome;

	if (arrival < IFINDEX_BASE) {
		count(RECEIVED_FROM_SUBSTRATE, length);
		outcome = from_substrate(ctx, &leave_by);
		count(outcome, length);
		return verdict(outcome, leave_by);
	}
	/* By tail call from the transit agent, which has counted it as received. */
	sender = sender_on(arrival);
	outcome = UNKNOWN_INTERFACE; /* closed for an endpoint that is being removed */
	if (sender) {
		outcome = from_same_host(ctx, sender, &leave_by);
		count_sender(slot_of(arrival), outcome, length);
	}
	count(outcome, length);
	return verdict(outcome, leave_by);
}
