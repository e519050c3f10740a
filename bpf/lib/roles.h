/* SPDX-License-Identifier: GPL-2.0-only */
/* What a droplet does with packets whose destination is elsewhere: as a bouncer, as a divider, or as neither. */
#ifndef DROPLET_ROLES_H
#define DROPLET_ROLES_H

#include "lib/peer.h"
#include "lib/route.h"

/* Prepares a packet to go on to another droplet, tunnel->peer, in the name of this bouncer or divider. */
static __always_inline enum outcome send_on(const struct local_droplet *local, struct tunnel *tunnel, bool vxlan,
					    enum outcome sent)
{
	if (same_address(&tunnel->peer.address, &local->address))
		return NOT_HERE;
	if (tunnel->flags & TUNNEL_COMES_BACK)
		tunnel->bounces = 0; /* counted anew from here */
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
	if (!(tunnel->flags & (TUNNEL_RETURNS | TUNNEL_VXLAN | TUNNEL_COMES_BACK)) || tunnel->rts & RTS_DIVIDED)
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
	return to_divider(vpc, packet, tunnel, HANDED_TO_DIVIDER);
}

/* How many ways are worth trying for a packet: each bouncer twice, so that it does not matter which was the first. */
static __always_inline __u32 ways_of(const struct network *network, const struct packet *packet)
{
	__u32 ways = network->count * 2;

	if (is_between_networks(packet)) /* by sets that this droplet does not know */
		return MAX_ATTEMPTS;
	if (network->count == 1)
		return 1;
	return ways < MAX_ATTEMPTS ? ways : MAX_ATTEMPTS;
}

/*
 * Has packets between two addresses take the next choice of every set from now on. `by`: who misdirected this one.
 * When there is no other choice, the packet ends here, and the next one begins with the first again.
 */
static __always_inline enum outcome take_detour(struct tunnel *tunnel, const struct packet *packet,
						const struct network *network, const struct address *by)
{
	struct detour detour = {.misdirected_by = *by, .tick = bpf_jiffies64()};
	struct detour_key key KEY;

	key_of_detour(&key, packet);
	if (tunnel->attempt + 1U >= ways_of(network, packet)) {
		detours.delete(&key);
		return ALL_MISDIRECTED;
	}
	tunnel->attempt++;
	detour.attempt = tunnel->attempt;
	detours.update(&key, &detour);
	return GO_ON;
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
 * A packet of an endpoint of this host came back, for its destination is not on the droplet that it was sent to. That
 * path is forgotten, and so is the bouncer that misdirected it; it goes from here anew, as it would have gone then.
 */
static __always_inline enum outcome take_back(const struct local_droplet *local, struct tunnel *tunnel,
					      struct packet *packet)
{
	struct network *network = network_of(&packet->from);
	enum outcome outcome = GO_ON;
	struct address by KEY;

	if (!forget_path(tunnel, &packet->from, &packet->to)) /* closed: nobody else's packet is sent */
		return NOT_HERE;
	copy_address(&by, &tunnel->origin);
	copy_address(&tunnel->origin, &local->address);
	if (!network) /* closed: nobody knows more */
		return NO_NETWORK;
	if (tunnel->flags & TUNNEL_MISDIRECTED)
		outcome = take_detour(tunnel, packet, network, &by);
	else
		tunnel->attempt = recall_attempt(packet);
	tunnel->rts = network->flags & NETWORK_PINNED ? RTS_PINNED : 0;
	return outcome;
}

/*
 * To a bouncer of the sender's network on another host: this one's own map may have led the packet astray. `otherwise`
 * is why it ends here when there is none.
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

	if (!network) /* closed, as in take_back() */
		return NO_NETWORK;
	if (destination && !same_address(&destination->host, &tunnel->peer.address)) {
		copy_address(&tunnel->peer.address, &destination->host);
		return send_on(local, tunnel, destination->flags & ENDPOINT_VXLAN, REROUTED);
	}
	/* Only a bouncer of the network knows that there is no such endpoint: others are not the right one to say so.
	 */
	if (network->flags & NETWORK_BOUNCED_HERE)
		outcome = hand_on(packet, tunnel);
	else
		outcome = to_other_bouncer(network, packet, tunnel, NOT_HERE);
	if (outcome == NO_ENDPOINT)
		outcome = to_other_bouncer(network, packet, tunnel, NO_ENDPOINT);
	return outcome < FIRST_DROPPED ? send_on(local, tunnel, false, REROUTED) : outcome;
}

/* A packet that came straight for an endpoint that is not here goes back: its sender's droplet knows what to do. */
static __always_inline enum outcome give_back(struct tunnel *tunnel)
{
	tunnel->flags = TUNNEL_INVALIDATES;
	tunnel->ttl = NEW_TTL;
	return RETURNED;
}

/*
 * A packet that a bouncer or divider with an old map sent here goes back to its sender's droplet, which tries the next
 * one. Its time to live is counted on, so that it ends also where droplets do not know of attempts.
 */
static __always_inline enum outcome return_misdirected(struct tunnel *tunnel, enum outcome otherwise)
{
	struct address by KEY;

	/* Closed: where the origin is a stranger or not the sender's droplet, nobody could send it anew. */
	if (!(tunnel->flags & TUNNEL_RETURNS) || tunnel->rts & RTS_UNLEARNT || !droplets.lookup(&tunnel->origin))
		return otherwise;
	if (tunnel->ttl <= 1)
		return OUTER_TTL;
	copy_address(&by, &tunnel->peer.address);
	copy_address(&tunnel->peer.address, &tunnel->origin);
	copy_address(&tunnel->origin, &by);
	tunnel->flags = TUNNEL_MISDIRECTED;
	tunnel->bounces = 0;
	tunnel->rts = 0;
	tunnel->ttl--;
	return MISDIRECTED;
}

/*
 * Whether a packet without an endpoint here was sent by one of this host, and a bouncer or divider with an old map sent
 * it back to this very host, which has no role for it: its sender's droplet has it already.
 */
static __always_inline bool is_own_misdirected(const struct tunnel *tunnel, const struct packet *packet)
{
	struct endpoint *sender = endpoints.lookup(&packet->from);
	__u32 vni = packet->to.vni;
	struct network *network;
	struct vpc *vpc;

	if (!(tunnel->flags & TUNNEL_RETURNS) || !sender || !sender->ifindex || droplets.lookup(&tunnel->origin))
		return false;
	network = network_of(&packet->to);
	vpc = vpcs.lookup(&vni);
	return !(network && network->flags & NETWORK_BOUNCED_HERE) && !(vpc && vpc->flags & VPC_DIVIDED_HERE);
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
	struct address came_from KEY;
	enum outcome outcome;

	if (tunnel->flags & TUNNEL_COMES_BACK)
		return reroute(local, tunnel, packet, endpoint);
	if (endpoint) {
		if (is_its_own(tunnel, endpoint))
			return NOT_HERE;
		copy_address(&tunnel->peer.address, &endpoint->host);
		return send_on(local, tunnel, endpoint->flags & ENDPOINT_VXLAN, BOUNCED);
	}
	copy_address(&came_from, &tunnel->peer.address);
	outcome = hand_on(packet, tunnel);
	if (outcome == HANDED_TO_DIVIDER && tunnel->rts & RTS_DIVIDED) { /* from where it came, and would come again */
		copy_address(&tunnel->peer.address, &came_from);
		outcome = NOT_HERE;
	}
	if (outcome < FIRST_DROPPED) {
		if (outcome == HANDED_TO_BOUNCER)
			tunnel->rts |= RTS_DIVIDED;
		return send_on(local, tunnel, false, outcome);
	}
	if (direct_hit)
		return give_back(tunnel);
	return outcome == NOT_HERE || outcome == NO_VPC ? return_misdirected(tunnel, outcome) : outcome;
}

#endif
