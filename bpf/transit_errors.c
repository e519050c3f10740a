// SPDX-License-Identifier: GPL-2.0-only
/*
 * Transit errors: what goes no further, by tail call from transit XDP and from the transit agent. It makes the frame
 * into an ICMP error or a TCP reset for the packet's sender, when that is due, and ends or sends it. The two others say
 * in struct frame_state what they know of the frame; they count it as received, and this one counts what becomes of it.
 */
#include "hooks/xdp.h"
#include "lib/endpoint.h"
#include "lib/gateway.h"
#include "lib/icmp.h"
#include "lib/next_hop.h"
#include "lib/peer.h"
#include "lib/state.h"

/*
 * Whether an endpoint of this host sent a packet that came round by a bouncer, which gave it to this droplet for one of
 * its roles. Closed: who sends in its name from another droplet has it told nothing.
 */
static __always_inline bool came_round(const struct tunnel *tunnel, struct packet *packet, __u8 came_by)
{
	struct endpoint *sender = endpoints.lookup(&packet->from);

	return came_by & TUNNEL_RETURNS && sender && sender->ifindex && !droplets.lookup(&tunnel->origin);
}

/* What came back, or round, was sent by an endpoint of this host, which is told here. */
static __always_inline enum outcome tell_own(struct packet *packet, enum outcome why, __u32 *leave_by)
{
	struct endpoint *sender = endpoints.lookup(&packet->from);
	__u32 ifindex = sender ? ifindex_of(sender) : 0;

	if (!receiver_on(ifindex, packet->from.vni)) /* closed: it has just gone */
		return why == DOES_NOT_FIT ? TOO_BIG : why;
	*leave_by = ifindex;
	return why == DOES_NOT_FIT ? TOO_BIG_TOLD : UNREACHABLE_TOLD;
}

/*
 * Makes a packet that came through a tunnel into an error that tells its sender why it goes no further: what would have
 * fitted, or that nothing leads there. An error to a remote sender is still to be sent to tunnel->peer.
 */
static __always_inline enum outcome tell_sender(context *ctx, const struct local_droplet *local,
						struct frame_state *state, enum outcome why, __u32 *leave_by)
{
	struct tunnel *tunnel = &state->tunnel;
	struct packet *packet = &state->packet;
	bool too_big = why == DOES_NOT_FIT;
	struct complaint complaint = {
		.kind = error_about(why, INNER_IPV6 && packet->kind == ETH_P_IPV6, 0),
		.routed = !too_big && why != NO_ENDPOINT && why != ALL_MISDIRECTED,
		.value = too_big ? tunnel->fits : 0,
		.from = tunnel->headers,
	};
	struct transport transport = {};
	struct ethhdr *ethernet = frame_start(ctx) + bounded(tunnel->headers, MAX_HEADERS);
	enum outcome outcome;

	if (too_big && !complaint.value)
		return TOO_BIG;
	if (find_transport(ethernet, frame_end(ctx), packet, &transport) != GO_ON)
		return untold(why);
	if (!is_told(ethernet, frame_end(ctx), packet, &transport, &complaint))
		return untold(why);
	outcome = complain(ctx, packet, &complaint, untold(why));
	if (outcome != DOES_NOT_FIT)
		return outcome;
	if (state->came_by & TUNNEL_COMES_BACK || came_round(tunnel, packet, state->came_by))
		return tell_own(packet, why, leave_by);
	tunnel->headers = 0;
	tunnel->length = frame_length(ctx);
	tunnel->flags = state->came_by;
	return to_origin(local, tunnel, too_big ? TOO_BIG_TOLD_REMOTE : UNREACHABLE_TOLD_REMOTE);
}

static __always_inline enum outcome from_substrate_untold(context *ctx, struct frame_state *state, enum outcome why,
							  __u32 *leave_by)
{
	__u32 index = state->local;
	struct local_droplet *local = local_droplets.lookup(&index);
	enum outcome outcome;

	if (!local || !local->interface) /* closed: it has just gone */
		return untold(why);
	outcome = forgotten(tell_sender(ctx, local, state, why, leave_by));
	if (is_to_be_sent(outcome))
		outcome = send_further(ctx, local, &state->tunnel, outcome, leave_by);
	return outcome == DOES_NOT_FIT ? untold(why) : outcome;
}

static __always_inline enum outcome told_of(enum outcome why)
{
	if (why == DOES_NOT_FIT)
		return TOO_BIG_TOLD;
	if (why == INNER_TTL)
		return TTL_TOLD;
	return why == IS_REFUSED ? GATEWAY_REFUSED : UNREACHABLE_TOLD;
}

/* TO_GATEWAY, or IS_REFUSED when an ICMP error must do. */
static __always_inline enum outcome refuse_tcp(context *ctx, const struct frame_state *state,
					       const struct complaint *complaint)
{
	if (!may_tell(&state->packet, complaint))
		return TO_GATEWAY;
	return reset_tcp(ctx, &state->packet, &state->transport);
}

/* Tells the endpoint by an ICMP error, or by a reset, why its packet did not go, when that is due. */
static __always_inline enum outcome tell_endpoint(context *ctx, const struct frame_state *state, enum outcome why)
{
	const struct packet *packet = &state->packet;
	const struct transport *transport = &state->transport;
	bool ipv6 = INNER_IPV6 && packet->kind == ETH_P_IPV6;
	struct complaint complaint = {
		.kind = error_about(why, ipv6, transport->protocol),
		.routed = is_unreachable(why) && why != NO_ENDPOINT,
	};
	enum outcome outcome;

	if (why == IS_REFUSED && transport->protocol == IPPROTO_TCP) {
		outcome = refuse_tcp(ctx, state, &complaint);
		if (outcome != IS_REFUSED)
			return outcome;
	}
	if (why == DOES_NOT_FIT) {
		if (is_subnet_broadcast(&packet->to))
			return MULTICAST;
		complaint.value = state->tunnel.fits;
		if (!complaint.value)
			return TOO_BIG;
	}
	if (complaint.kind == KIND(ICMPV6_PARAMETER, ICMPV6_UNKNOWN_NEXT) && ipv6) {
		/* Behind extension headers it would point elsewhere, and "no next header" is no mistake. */
		if (transport->extended || transport->protocol == EXTENSION_NONE)
			return TO_GATEWAY;
		complaint.value = NEXT_HEADER_AT;
	}
	if (!is_told(frame_start(ctx), frame_end(ctx), packet, transport, &complaint))
		return untold(why);
	if (complain(ctx, packet, &complaint, TOO_BIG) != DOES_NOT_FIT)
		return untold(why);
	return told_of(why);
}

int transit_errors(struct xdp_md *ctx)
{
	__u32 arrival = arrived_on(ctx), length = frame_length(ctx), leave_by = arrival;
	struct frame_state *state = called_state(TRANSIT_ERRORS);
	enum outcome outcome = NO_PROGRAM, why; /* closed: what the frame is, is not known */

	if (state) {
		length = state->length;
		why = state->why;
		if (arrival < IFINDEX_BASE)
			outcome = from_substrate_untold(ctx, state, why, &leave_by);
		else
			outcome = tell_endpoint(ctx, state, why);
	}
	if (arrival >= IFINDEX_BASE)
		count_sender(slot_of(arrival), outcome, length);
	count(outcome, length);
	return verdict(outcome, leave_by);
}
