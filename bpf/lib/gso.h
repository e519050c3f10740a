/* SPDX-License-Identifier: GPL-2.0-only */
/* GSO packets: a frame of tc may stand for several packets, which are cut from it after the programs. */
#ifndef DROPLET_GSO_H
#define DROPLET_GSO_H

#include "lib/gateway.h"
#include "lib/verifier.h"
#include "structs.h"

/* Bytes of headers that each segment repeats, from the Ethernet header; 0 if the packet cannot be cut. */
static __always_inline __u32 repeated_headers(void *start, void *end, const struct transport *transport)
{
	__u32 at = bounded(transport->offset, MAX_OFFSET);
	struct tcp *tcp = start + at;
	__u32 size;

	if (!transport->parsed || transport->fragment)
		return 0;
	if (transport->protocol == IPPROTO_UDP)
		return at + sizeof(struct udphdr);
	if (transport->protocol != IPPROTO_TCP || (void *)(tcp + 1) > end)
		return 0;
	size = (bpf_ntohs(tcp->flags) >> 12) * 4;
	return size < sizeof(*tcp) ? 0 : at + size;
}

/*
 * Corrects tunnel->longest and state->packets, which are those of a single packet, by the headers of the inner frame.
 * GSO_PACKET if it is a GSO packet that a tunnel cannot carry.
 */
static __always_inline enum outcome set_segments(context *ctx, void *start, void *end, struct frame_state *state)
{
	struct tunnel *tunnel = &state->tunnel;
	__u32 size = segment_bytes(ctx), headers, payload;

	if (!HAS_GSO || !size)
		return CONTINUE;
	headers = repeated_headers(start, end, &state->transport);
	if (!headers || headers >= state->packet.length)
		return GSO_PACKET;
	payload = state->packet.length - headers;
	state->packets = (payload + size - 1) / size; /* the frame's own number may not be known yet */
	if (payload > size)
		tunnel->longest = headers + size;
	return CONTINUE;
}

/* Bytes of the longest packet of an inner frame. */
static __always_inline __u32 longest_packet(const struct tunnel *tunnel)
{
	return HAS_GSO ? tunnel->longest : tunnel->length;
}

#endif
