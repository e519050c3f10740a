/* SPDX-License-Identifier: GPL-2.0-only */
/* Puts tunnel headers in front of an inner frame, in place of those that it came with, if any. */
#ifndef DROPLET_ENCAPSULATE_H
#define DROPLET_ENCAPSULATE_H

/*
 * Written and summed up by words from registers: reading back what was just written in other widths would stall the
 * CPU. No fragments, so no identity (RFC 6864 section 4.1).
 */
static __always_inline void write_ipv4(struct iphdr *ip, const struct local_droplet *local, const struct tunnel *tunnel,
				       __u32 total)
{
	__u32 first = bpf_htonl(0x45000000 | (__u32)tunnel->tos << 16 | total);
	__u32 second = bpf_htonl(FRAGMENT_NEVER);
	__u32 third = bpf_htonl((__u32)tunnel->ttl << 24 | IPPROTO_UDP << 16);
	__be32 source = unmapped(&local->address), destination = unmapped(&tunnel->peer);
	__u32 *word = (__u32 *)ip;

	word[0] = first;
	word[1] = second;
	word[2] = third;
	word[3] = source;
	word[4] = destination;
	ip->check = checksum_fold((__u64)first + second + third + source + destination);
}

static __always_inline void write_rts(struct return_to_sender *rts, const struct tunnel *tunnel)
{
	rts->option.class = bpf_htons(OPTION_CLASS);
	rts->option.type = OPTION_RTS;
	rts->option.length = (sizeof(*rts) - sizeof(rts->option)) / 4;
	*(__be32 *)&rts->bounces = bpf_htonl((__u32)tunnel->bounces << 24);
	rts->origin = unmapped(&tunnel->origin);
}

/* Sends the inner frame to tunnel->peer. `sent` is the outcome when nothing is in the way. */
static __always_inline enum outcome send(context *ctx, const struct local_droplet *local, struct tunnel *tunnel,
					 enum outcome sent)
{
	struct next_hop *hop = next_hops.lookup(&tunnel->peer);
	__u32 options = tunnel->returns ? sizeof(struct return_to_sender) : 0;
	__u32 udp_length = sizeof(struct udphdr) + sizeof(struct geneve) + options + tunnel->length;
	struct outer_headers *outer;

	if (!hop) /* closed: without the neighbour's address there is nowhere to send */
		return NEXT_HOP_UNRESOLVED;
	if (move_start(ctx, (int)tunnel->headers - (int)(sizeof(*outer) + options)))
		return NO_HEADROOM;
	outer = frame_start(ctx);
	/* Room for the option is there in any case: an inner frame has 14 bytes at least, and the option 12. */
	if ((void *)(outer + 1) + sizeof(struct return_to_sender) > frame_end(ctx))
		return NO_HEADROOM;
	copy_mac(outer->ethernet.h_dest, hop->mac);
	copy_mac(outer->ethernet.h_source, local->mac);
	outer->ethernet.h_proto = bpf_htons(ETH_P_IP);
	write_ipv4(&outer->ip, local, tunnel, sizeof(struct iphdr) + udp_length);
	outer->udp.source = tunnel->source_port;
	outer->udp.dest = local->port;
	outer->udp.len = bpf_htons(udp_length);
	outer->udp.check = 0; /* RFC 8926 section 3.3 */
	outer->geneve.length = options / 4;
	outer->geneve.flags = 0;
	outer->geneve.protocol = bpf_htons(GENEVE_ETHERNET);
	outer->geneve.vni = bpf_htonl(tunnel->vni << 8);
	if (options)
		write_rts((void *)(outer + 1), tunnel);
	return sent;
}

#endif
