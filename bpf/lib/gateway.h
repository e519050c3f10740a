/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The gateway of a network answers echo requests (RFC 792, RFC 4443 section 4), each fragment on its own. It has no
 * services: it answers TCP with a reset (RFC 9293 section 3.10.7.1) and other protocols except ICMP with an ICMP error.
 */
#ifndef DROPLET_GATEWAY_H
#define DROPLET_GATEWAY_H

#include "lib/checksum.h"
#include "lib/packet.h"

struct echo {
	__u8 type;
	__u8 code;
	__u16 check;
};

#define ECHO_REQUEST	  8
#define ECHO_REPLY	  0
#define ECHO_REQUEST_IPV6 128
#define ECHO_REPLY_IPV6	  129

/* Swaps source and destination, which leaves all checksums valid. False if the frame is too short. */
static __always_inline bool reverse_addresses(struct ethhdr *ethernet, void *end, const struct packet *packet)
{
	struct iphdr *ip = (void *)(ethernet + 1);
	struct ipv6hdr *ipv6 = (void *)ip;
	const __u8 gateway[6] = GATEWAY_MAC;

	if (INNER_IPV6 && packet->kind == ETH_P_IPV6) {
		if ((void *)(ipv6 + 1) > end)
			return false;
		copy_words(&ipv6->saddr, &packet->to.address);
		copy_words(&ipv6->daddr, &packet->from.address);
	} else {
		if ((void *)(ip + 1) > end)
			return false;
		ip->saddr = unmapped(&packet->to.address);
		ip->daddr = unmapped(&packet->from.address);
	}
	copy_mac(ethernet->h_dest, ethernet->h_source);
	copy_mac(ethernet->h_source, gateway);
	return true;
}

/*
 * Turns an echo request into its reply; NO_SERVICE for anything but ICMP. Only the first fragment has the type and the
 * checksum of the whole packet. `ethernet` is followed by the whole IP header.
 */
static __always_inline enum outcome answer_echo(struct ethhdr *ethernet, void *end, const struct packet *packet,
						const struct transport *transport)
{
	struct echo *echo = (void *)ethernet + bounded(transport->offset, MAX_OFFSET);
	bool ipv6 = INNER_IPV6 && packet->kind == ETH_P_IPV6;
	__u16 before;

	if (transport->protocol != (ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return NO_SERVICE;
	if (transport->later)
		return reverse_addresses(ethernet, end, packet) ? GATEWAY_ECHO : TO_GATEWAY;
	if ((void *)(echo + 1) > end || echo->type != (ipv6 ? ECHO_REQUEST_IPV6 : ECHO_REQUEST) || echo->code)
		return TO_GATEWAY;
	before = *(__u16 *)echo;
	echo->type = ipv6 ? ECHO_REPLY_IPV6 : ECHO_REPLY;
	echo->check =
		checksum_replace(echo->check, before, bpf_htons((__u16)(ipv6 ? ECHO_REPLY_IPV6 : ECHO_REPLY) << 8));
	return reverse_addresses(ethernet, end, packet) ? GATEWAY_ECHO : TO_GATEWAY;
}

struct tcp {
	__be16 source;
	__be16 destination;
	__be32 sequence;
	__be32 acknowledged;
	__be16 flags; /* the header's length in words in the upper 4 bits */
	__be16 window;
	__u16 check;
	__be16 urgent;
};

#define TCP_FIN	   0x01
#define TCP_SYN	   0x02
#define TCP_RST	   0x04
#define TCP_ACK	   0x10
#define TCP_WORDS5 0x5000

/* The fields of a reset for a segment without a connection. */
struct reset {
	__be32 sequence;
	__be32 acknowledged;
	__u16 flags;
};

/* False for a reset or an invalid segment. `length`: of the segment. */
static __always_inline bool reset_about(const struct tcp *tcp, __u32 length, struct reset *reset)
{
	__u32 flags = bpf_ntohs(tcp->flags), header = (flags >> 12) * 4;

	if (flags & TCP_RST || header < sizeof(*tcp) || header > length)
		return false;
	reset->flags = TCP_WORDS5 | TCP_RST;
	reset->sequence = tcp->acknowledged;
	reset->acknowledged = 0;
	if (!(flags & TCP_ACK)) {
		reset->flags |= TCP_ACK;
		reset->sequence = 0;
		reset->acknowledged = bpf_htonl(bpf_ntohl(tcp->sequence) + length - header + !!(flags & TCP_SYN) +
						!!(flags & TCP_FIN));
	}
	return true;
}

/* Writes an IP header without options in front of the TCP header and returns the sum of the pseudo-header. */
static __always_inline __u64 write_reset_ip(struct ethhdr *ethernet, const struct packet *packet)
{
	struct iphdr *ip = (void *)(ethernet + 1);
	struct ipv6hdr *ipv6 = (void *)ip;
	__u32 *word = (__u32 *)ip;

	if (INNER_IPV6 && packet->kind == ETH_P_IPV6) {
		word[0] = bpf_htonl(0x60000000);
		word[1] = bpf_htonl(sizeof(struct tcp) << 16 | IPPROTO_TCP << 8 | NEW_TTL);
		return sum_pseudo_ipv6(ipv6, sizeof(struct tcp), IPPROTO_TCP);
	}
	word[0] = bpf_htonl(0x45000000 | (sizeof(*ip) + sizeof(struct tcp)));
	word[1] = bpf_htonl(FRAGMENT_NEVER);
	word[2] = bpf_htonl(NEW_TTL << 24 | IPPROTO_TCP << 16);
	ip->check = checksum_fold(sum_words(ip, sizeof(*ip) / 4));
	return sum_pseudo_ipv4(ip, sizeof(struct tcp), IPPROTO_TCP);
}

/*
 * Turns a TCP segment for the gateway into a reset: GATEWAY_REFUSED. NO_SERVICE for fragments and behind options or
 * extension headers, where an ICMP error is sent instead. Invalidates all pointers into the frame.
 */
static __always_inline enum outcome reset_tcp(context *ctx, const struct packet *packet,
					      const struct transport *transport)
{
	bool ipv6 = INNER_IPV6 && packet->kind == ETH_P_IPV6;
	__u32 at = sizeof(struct ethhdr) + (ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	struct tcp *tcp = frame_start(ctx) + at;
	struct reset reset = {};
	struct ethhdr *ethernet;
	__be16 source, destination;
	bool unfinished;
	__u64 pseudo;

	if (transport->fragment || transport->offset != at || (void *)(tcp + 1) > frame_end(ctx))
		return NO_SERVICE;
	if (!reset_about(tcp, packet->length - at, &reset))
		return TO_GATEWAY;
	source = tcp->destination;
	destination = tcp->source;
	/* The frame is still marked so, and a device would overwrite a complete checksum by a wrong one. */
	unfinished = HAS_GSO && unfinished_checksum(frame_start(ctx), frame_end(ctx), packet, transport);
	if (set_frame_length(ctx, at + sizeof(*tcp)))
		return TO_GATEWAY;
	ethernet = frame_start(ctx);
	tcp = (void *)ethernet + at;
	if ((void *)(tcp + 1) > frame_end(ctx) || !reverse_addresses(ethernet, frame_end(ctx), packet))
		return TO_GATEWAY;
	tcp->source = source;
	tcp->destination = destination;
	tcp->sequence = reset.sequence;
	tcp->acknowledged = reset.acknowledged;
	tcp->flags = bpf_htons(reset.flags);
	tcp->window = 0;
	tcp->check = 0;
	tcp->urgent = 0;
	pseudo = write_reset_ip(ethernet, packet);
	tcp->check = unfinished ? sum_fold(pseudo) : checksum_fold(pseudo + sum_words(tcp, sizeof(*tcp) / 4));
	return GATEWAY_REFUSED;
}

#endif
