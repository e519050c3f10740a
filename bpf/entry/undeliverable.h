/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Transit errors: packets that cannot be delivered, by tail call from the two other programs. Replaces the frame by an
 * ICMP error or a TCP reset to its sender if one is due, and drops it otherwise. The caller leaves the frame's state in
 * struct frame_state.
 */
#ifndef DROPLET_UNDELIVERABLE_H
#define DROPLET_UNDELIVERABLE_H

#include "lib/endpoint.h"
#include "lib/gateway.h"
#include "lib/icmp.h"
#include "lib/next_hop.h"
#include "lib/peer.h"
#include "lib/stages.h"
#include "lib/state.h"

/*
 * Whether a local endpoint sent a packet that a bouncer forwarded to this droplet for one of its roles. Closed: a
 * packet with its address from another droplet gets no answer here.
 */
static __always_inline bool is_own_packet(const struct tunnel *tunnel, struct packet *packet, __u8 received_flags)
{
	struct endpoint *sender = endpoints.lookup(&packet->from);

	return received_flags & TUNNEL_RTS && sender && sender->ifindex && !droplets.lookup(&tunnel->origin);
}

/* Delivers the error to the local endpoint that sent the packet. */
static __always_inline enum outcome answer_local_sender(struct packet *packet, enum outcome reason, __u32 *tx_ifindex)
{
	struct endpoint *sender = endpoints.lookup(&packet->from);
	__u32 ifindex = sender ? ifindex_of(sender) : 0;
	struct interface *receiver = find_receiver(ifindex, packet->from.vni);

	if (!receiver || is_function_endpoint(receiver)) /* closed: it was just removed, or no error can reach it */
		return reason == EXCEEDS_MTU ? TOO_BIG : reason;
	*tx_ifindex = ifindex;
	return reason == EXCEEDS_MTU ? ICMP_TOO_BIG_SENT : ICMP_UNREACHABLE_SENT;
}

/*
 * Replaces a packet from a tunnel by an ICMP error to its sender. An error to a remote sender must still be sent to
 * tunnel->peer.
 */
static __always_inline enum outcome answer_tunnel_packet(context *ctx, const struct local_droplet *local,
							 struct frame_state *state, enum outcome reason,
							 __u32 *tx_ifindex)
{
	struct tunnel *tunnel = &state->tunnel;
	struct packet *packet = &state->packet;
	bool too_big = reason == EXCEEDS_MTU;
	struct icmp_error error = {
		.type_code = icmp_type_code(reason, INNER_IPV6 && packet->kind == ETH_P_IPV6, 0),
		.own_gateway = !too_big && reason != NO_ENDPOINT && reason != ALL_MISDIRECTED,
		.value = too_big ? tunnel->mtu : 0,
		.strip = tunnel->headers,
	};
	const struct transport *transport = &state->transport;
	struct ethhdr *ethernet = frame_start(ctx) + bounded(tunnel->headers, MAX_HEADERS);
	enum outcome outcome;

	if (too_big && !error.value)
		return TOO_BIG;
	if (!transport->parsed || !may_send_icmp_error(ethernet, frame_end(ctx), packet, transport, &error))
		return drop_reason(reason);
	outcome = write_icmp_error(ctx, packet, transport, &error, drop_reason(reason));
	if (outcome != CONTINUE)
		return outcome;
	if (state->received_flags & TUNNEL_RETURNED || is_own_packet(tunnel, packet, state->received_flags))
		return answer_local_sender(packet, reason, tx_ifindex);
	tunnel->headers = 0;
	tunnel->length = tunnel->longest = frame_length(ctx);
	tunnel->flags = state->received_flags;
	return reply_to_origin(local, tunnel, too_big ? ICMP_TOO_BIG_SENT_REMOTE : ICMP_UNREACHABLE_SENT_REMOTE);
}

static __always_inline enum outcome errors_from_underlay(context *ctx, struct frame_state *state, enum outcome reason,
							 __u32 *tx_ifindex)
{
	__u32 index = state->local;
	struct local_droplet *local = local_droplets.lookup(&index);
	enum outcome outcome;

	if (!local || !local->interface) /* closed: it was just removed */
		return drop_reason(reason);
	outcome = forgotten(answer_tunnel_packet(ctx, local, state, reason, tx_ifindex));
	if (leaves_by_tunnel(outcome))
		outcome = send_through_tunnel(ctx, local, &state->tunnel, 0, 0, outcome, tx_ifindex);
	return outcome == EXCEEDS_MTU ? drop_reason(reason) : outcome;
}

static __always_inline enum outcome icmp_error_outcome(enum outcome reason)
{
	if (reason == EXCEEDS_MTU)
		return ICMP_TOO_BIG_SENT;
	if (reason == INNER_TTL)
		return ICMP_TTL_EXCEEDED_SENT;
	return reason == NO_SERVICE ? GATEWAY_REFUSED : ICMP_UNREACHABLE_SENT;
}

/* A reset or TO_GATEWAY; NO_SERVICE if an ICMP error must be sent instead. */
static __always_inline enum outcome refuse_tcp(context *ctx, const struct frame_state *state,
					       const struct icmp_error *error)
{
	if (!ratelimit_allows(&state->packet, error))
		return TO_GATEWAY;
	return reset_tcp(ctx, &state->packet, &state->transport);
}

/* Answers a packet of an endpoint with an ICMP error or a TCP reset if one is due. */
static __always_inline enum outcome answer_endpoint(context *ctx, const struct frame_state *state, enum outcome reason)
{
	const struct packet *packet = &state->packet;
	const struct transport *transport = &state->transport;
	bool ipv6 = INNER_IPV6 && packet->kind == ETH_P_IPV6;
	struct icmp_error error = {
		.type_code = icmp_type_code(reason, ipv6, transport->protocol),
		.own_gateway = is_unreachable(reason) && reason != NO_ENDPOINT,
	};
	enum outcome outcome;

	if (reason == NO_SERVICE && transport->protocol == IPPROTO_TCP) {
		outcome = refuse_tcp(ctx, state, &error);
		if (outcome != NO_SERVICE)
			return outcome;
	}
	if (reason == EXCEEDS_MTU) {
		if (is_subnet_broadcast(&packet->to))
			return MULTICAST;
		error.value = state->tunnel.mtu;
		if (!error.value)
			return TOO_BIG;
	}
	if (error.type_code == TYPE_CODE(ICMPV6_PARAMETER, ICMPV6_UNKNOWN_NEXT) && ipv6) {
		/* The pointer would be wrong behind extension headers, and "no next header" is valid. */
		if (transport->extended || transport->protocol == EXTENSION_NONE)
			return TO_GATEWAY;
		error.value = NEXT_HEADER_OFFSET;
	}
	if (!may_send_icmp_error(frame_start(ctx), frame_end(ctx), packet, transport, &error))
		return drop_reason(reason);
	if (write_icmp_error(ctx, packet, transport, &error, TOO_BIG) != CONTINUE)
		return drop_reason(reason);
	return icmp_error_outcome(reason);
}

static __always_inline int process_undeliverable(context *ctx)
{
	struct frame_state *state = called_state(SLOT_ERRORS);
	__u32 rx_ifindex = source_ifindex(ctx, state), tx_ifindex = rx_ifindex;
	enum outcome outcome = NO_PROGRAM, reason; /* closed: without a state the frame is unknown */
	struct amount amount = amount_of(ctx, state);

	if (state) {
		reason = state->reason;
		if (rx_ifindex < IFINDEX_BASE)
			outcome = errors_from_underlay(ctx, state, reason, &tx_ifindex);
		else if (is_sent(state)) /* closed: no error can reach a function endpoint */
			outcome = drop_reason(reason);
		else
			outcome = answer_endpoint(ctx, state, reason);
		outcome = observe_end(ctx, state, outcome);
	}
	if (rx_ifindex >= IFINDEX_BASE)
		return leave_endpoint(ctx, rx_ifindex, outcome, amount, tx_ifindex);
	return leave(ctx, RECEIVED_FROM_UNDERLAY, outcome, amount, tx_ifindex);
}

#endif
