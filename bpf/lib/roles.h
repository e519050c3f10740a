/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Packets whose destination is not on this host: the roles of bouncer and divider, and packets that other droplets
 * return.
 */
#ifndef DROPLET_ROLES_H
#define DROPLET_ROLES_H

#include "lib/endpoint.h"
#include "lib/peer.h"
#include "lib/route.h"

/* Prepares a packet to be forwarded to tunnel->peer by this bouncer or divider. */
static __always_inline enum outcome forward(const struct local_droplet *local, struct tunnel *tunnel, bool vxlan,
					    enum outcome sent)
{
	if (same_address(&tunnel->peer.address, &local->address))
		return ENDPOINT_NOT_LOCAL;
	if (tunnel->flags & TUNNEL_RETURNED)
		tunnel->bounces = 0; /* count again from here */
	if (tunnel->bounces >= MAX_BOUNCES)
		return TOO_MANY_BOUNCES;
	if (tunnel->ttl <= 1)
		return OUTER_TTL;
	if (tunnel->flags & TUNNEL_VXLAN)
		tunnel->rts |= RTS_UNLEARNT | RTS_VXLAN;
	tunnel->flags = vxlan ? TUNNEL_VXLAN : TUNNEL_RTS;
	tunnel->bounces++;
	tunnel->ttl--;
	return sent;
}

/* Whether a packet must pass a divider before it is forwarded; `endpoint` may be NULL. */
static __always_inline bool must_pass_divider(const struct tunnel *tunnel, const struct packet *packet,
					      const struct endpoint *endpoint)
{
	if (!(tunnel->flags & (TUNNEL_RTS | TUNNEL_VXLAN | TUNNEL_RETURNED)) || tunnel->rts & RTS_DIVIDED)
		return false;
	if (!(tunnel->rts & RTS_PINNED) && !(endpoint && endpoint->flags & ENDPOINT_PINNED))
		return false;
	return crosses_networks(packet);
}

/* Sends a packet to a divider; CONTINUE if this host is one. */
static __always_inline enum outcome pass_divider(struct tunnel *tunnel, const struct packet *packet)
{
	__u32 vni = packet->to.vni;
	struct vpc *vpc = vpcs.lookup(&vni);

	if (!vpc) /* closed: it may not bypass the divider */
		return NO_VPC;
	tunnel->rts |= RTS_DIVIDED;
	if (vpc->flags & VPC_LOCAL_DIVIDER)
		return CONTINUE;
	tunnel->rts &= ~RTS_DIVIDED;
	return to_divider(vpc, packet, tunnel, HANDED_TO_DIVIDER);
}

/* How many attempts to make for a packet: each bouncer twice, whichever was the first choice. */
static __always_inline __u32 attempts_for(const struct network *network, const struct packet *packet)
{
	__u32 attempts = network->count * 2;

	if (crosses_networks(packet)) /* their sets are unknown here */
		return MAX_ATTEMPTS;
	if (network->count == 1)
		return 1;
	return attempts < MAX_ATTEMPTS ? attempts : MAX_ATTEMPTS;
}

/*
 * Selects the next bouncer or divider for all packets between two addresses. `by`: the droplet that misdirected this
 * one. If all were tried, drops the packet and starts again with the first choice for the next one.
 */
static __always_inline enum outcome take_detour(struct tunnel *tunnel, const struct packet *packet,
						const struct network *network, const struct address *by)
{
	struct detour detour = {.misdirected_by = *by, .tick = bpf_jiffies64()};
	struct detour_key key KEY;

	fill_detour_key(&key, packet);
	if (tunnel->attempt + 1U >= attempts_for(network, packet)) {
		detours.delete(&key);
		return ALL_MISDIRECTED;
	}
	tunnel->attempt++;
	detour.attempt = tunnel->attempt;
	detours.update(&key, &detour);
	return CONTINUE;
}

/*
 * Deletes the direct path to tunnel->peer, on which a local endpoint sent the returned packet. False, and closed, if
 * the sender is not local; a path to another droplet stays.
 */
static __always_inline bool forget_path(const struct tunnel *tunnel, struct overlay_key *from, struct overlay_key *to)
{
	struct endpoint *sender = endpoints.lookup(from);
	struct direct_path *path = direct.lookup(to);

	if (!sender || !sender->ifindex)
		return false;
	if (path && same_address(&path->host, &tunnel->peer.address)) {
		direct.delete(to);
		start_path_generation(); /* not for every returned packet: that would void the paths of all tenants */
	}
	return true;
}

/* The label of a local endpoint for a packet that is to be sent again: it returned without one. */
static __always_inline __u32 own_label(struct packet *packet)
{
	struct endpoint *sender = endpoints.lookup(&packet->from);
	struct interface *from = find_receiver(sender ? ifindex_of(sender) : 0, packet->from.vni);

	return from && from->label && may_ask_for_labels(&packet->to) ? from->label : 0;
}

/*
 * A packet of a local endpoint that was returned because its destination is not on the droplet it was sent to. Deletes
 * that direct path, or advances past the bouncer that misdirected the packet, and prepares to send it again.
 */
static __always_inline enum outcome resend_returned(const struct local_droplet *local, struct tunnel *tunnel,
						    struct packet *packet)
{
	struct network *network = network_of(&packet->from);
	enum outcome outcome = CONTINUE;
	struct address by KEY;

	if (!forget_path(tunnel, &packet->from, &packet->to)) /* closed: it is not from a local endpoint */
		return ENDPOINT_NOT_LOCAL;
	copy_address(&by, &tunnel->origin);
	copy_address(&tunnel->origin, &local->address);
	if (!network) /* closed: no bouncer is known */
		return NO_NETWORK;
	if (tunnel->flags & TUNNEL_MISDIRECTED)
		outcome = take_detour(tunnel, packet, network, &by);
	else
		tunnel->attempt = recall_attempt(packet);
	tunnel->rts =
		(network->flags & NETWORK_PINNED ? RTS_PINNED : 0) | (network->flags & NETWORK_LABELS ? RTS_LABELS : 0);
	tunnel->label = own_label(packet);
	return outcome;
}

/*
 * To a bouncer of the sender's network on another host, as this host's own map may have misdirected the packet. Returns
 * `otherwise` if there is none.
 */
static __always_inline enum outcome to_other_bouncer(const struct network *network, const struct packet *packet,
						     struct tunnel *tunnel, enum outcome otherwise)
{
	enum outcome outcome = to_bouncer(network, packet, tunnel, REROUTED);

	if (outcome != REROUTED || droplets.lookup(&tunnel->peer.address))
		return outcome;
	tunnel->attempt++;
	to_bouncer(network, packet, tunnel, REROUTED);
	return droplets.lookup(&tunnel->peer.address) ? REROUTED : otherwise;
}

static __always_inline enum outcome reroute(const struct local_droplet *local, struct tunnel *tunnel,
					    struct packet *packet, const struct endpoint *destination)
{
	struct network *network = network_of(&packet->from);
	enum outcome outcome;
	bool bounces;

	if (!network) /* closed: no bouncer is known */
		return NO_NETWORK;
	if (destination && !same_address(&destination->host, &tunnel->peer.address)) {
		copy_address(&tunnel->peer.address, &destination->host);
		return forward(local, tunnel, destination->flags & ENDPOINT_VXLAN, REROUTED);
	}
	/* Only a bouncer of the network knows that an endpoint does not exist and may answer so. */
	if (network->flags & NETWORK_LOCAL_BOUNCER)
		outcome = route_by_role(packet, tunnel);
	else
		outcome = to_other_bouncer(network, packet, tunnel, ENDPOINT_NOT_LOCAL);
	if (outcome == NO_ENDPOINT)
		outcome = to_other_bouncer(network, packet, tunnel, NO_ENDPOINT);
	return outcome < FIRST_DROPPED ? forward(local, tunnel, false, REROUTED) : outcome;
}

/* Returns a packet that came straight for an endpoint that is not on this host. */
static __always_inline enum outcome return_packet(struct tunnel *tunnel)
{
	tunnel->flags = TUNNEL_INVALIDATES;
	tunnel->label = 0; /* its sender's host knows it */
	tunnel->ttl = NEW_TTL;
	return RETURNED;
}

/*
 * Returns a packet that a bouncer or divider with outdated maps sent here to the droplet of its sender, which tries the
 * next one. The time to live is decremented, so that it ends even at droplets that do not count attempts.
 */
static __always_inline enum outcome return_misdirected(struct tunnel *tunnel, enum outcome otherwise)
{
	struct address by KEY;

	/* Closed: an origin that is unknown or not the droplet of the sender cannot send it again. */
	if (!(tunnel->flags & TUNNEL_RTS) || tunnel->rts & RTS_UNLEARNT || !droplets.lookup(&tunnel->origin))
		return otherwise;
	if (tunnel->ttl <= 1)
		return OUTER_TTL;
	copy_address(&by, &tunnel->peer.address);
	copy_address(&tunnel->peer.address, &tunnel->origin);
	copy_address(&tunnel->origin, &by);
	tunnel->flags = TUNNEL_MISDIRECTED;
	tunnel->bounces = 0;
	tunnel->rts = 0;
	tunnel->label = 0;
	tunnel->ttl--;
	return MISDIRECTED;
}

/*
 * Whether a packet without a local destination was sent by a local endpoint, and a bouncer or divider with outdated
 * maps sent it back to this host, which has no role for it.
 */
static __always_inline bool is_own_misdirected(const struct tunnel *tunnel, const struct packet *packet)
{
	struct endpoint *sender = endpoints.lookup(&packet->from);
	__u32 vni = packet->to.vni;
	struct network *network;
	struct vpc *vpc;

	if (!(tunnel->flags & TUNNEL_RTS) || !sender || !sender->ifindex || droplets.lookup(&tunnel->origin))
		return false;
	network = network_of(&packet->to);
	vpc = vpcs.lookup(&vni);
	return !(network && network->flags & NETWORK_LOCAL_BOUNCER) && !(vpc && vpc->flags & VPC_LOCAL_DIVIDER);
}

/* The bridge of a VXLAN peer floods packets to unknown addresses, even to its own endpoints; do not send them back. */
static __always_inline bool is_at_peer(const struct tunnel *tunnel, const struct endpoint *endpoint)
{
	return tunnel->flags & TUNNEL_VXLAN && same_address(&endpoint->host, &tunnel->peer.address);
}

/* Forwards a packet whose destination is not on this host. */
static __always_inline enum outcome forward_by_role(const struct local_droplet *local, struct tunnel *tunnel,
						    struct packet *packet, const struct endpoint *endpoint)
{
	bool direct_hit = !(tunnel->flags & (TUNNEL_RTS | TUNNEL_VXLAN));
	struct address came_from KEY;
	enum outcome outcome;

	if (tunnel->flags & TUNNEL_RETURNED)
		return reroute(local, tunnel, packet, endpoint);
	if (endpoint) {
		if (is_at_peer(tunnel, endpoint))
			return ENDPOINT_NOT_LOCAL;
		copy_address(&tunnel->peer.address, &endpoint->host);
		return forward(local, tunnel, endpoint->flags & ENDPOINT_VXLAN, BOUNCED);
	}
	copy_address(&came_from, &tunnel->peer.address);
	outcome = route_by_role(packet, tunnel);
	if (outcome == HANDED_TO_DIVIDER &&
	    tunnel->rts & RTS_DIVIDED) { /* that divider sent it here, and would again */
		copy_address(&tunnel->peer.address, &came_from);
		outcome = ENDPOINT_NOT_LOCAL;
	}
	if (outcome < FIRST_DROPPED) {
		if (outcome == HANDED_TO_BOUNCER)
			tunnel->rts |= RTS_DIVIDED;
		return forward(local, tunnel, false, outcome);
	}
	if (direct_hit)
		return return_packet(tunnel);
	return outcome == ENDPOINT_NOT_LOCAL || outcome == NO_VPC ? return_misdirected(tunnel, outcome) : outcome;
}

#endif
