/* SPDX-License-Identifier: GPL-2.0-only */
/* What a droplet does with packets whose destination is elsewhere: as a bouncer, as a divider, or as neither. */
#ifndef DROPLET_ROLES_H
#define DROPLET_ROLES_H

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
 * Forgets the path to tunnel->peer by which an endpoint of this host sent what came back. Closed: nobody else's path is
 * forgotten, and another path, or none, stays as it is.
 */
static __always_inline bool forget_path(const struct tunnel *tunnel, struct overlay_key *from, struct overlay_key *to)
{
	struct endpoint *sender = endpoints.lookup(from);
	struct direct_path *path = direct.lookup(to);

	if (!sender || !sender->ifindex)
		return false;
	if (path && same_address(&path->host, &tunnel->peer.address))
		direct.delete(to);
	return true;
}

/*
 * A packet of an endpoint of this host came back, for its destination has left the droplet that it was sent to: that
 * path is forgotten, and the packet goes as it would have gone without it, from here anew.
 */
static __always_inline enum outcome take_back(const struct local_droplet *local, struct tunnel *tunnel,
					      struct packet *packet)
{
	struct network *network = network_of(&packet->from);

	if (!forget_path(tunnel, &packet->from, &packet->to)) /* closed: nobody else's packet is sent */
		return NOT_HERE;
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
	outcome = hand_on(packet, &tunnel->peer.address);
	if (outcome < FIRST_DROPPED) {
		if (outcome == HANDED_TO_BOUNCER)
			tunnel->rts |= RTS_DIVIDED;
		return send_on(local, tunnel, false, outcome);
	}
	return direct_hit ? give_back(tunnel) : outcome;
}

#endif
