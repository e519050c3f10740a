/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a network's gateway answers itself: echo requests (RFC 792, RFC 4443 section 4), fragments of them each by
 * itself. All else but ICMP it refuses, for it has no services.
 */
#ifndef DROPLET_GATEWAY_H
#define DROPLET_GATEWAY_H

struct echo {
	__u8 type;
	__u8 code;
	__u16 check;
};

#define ECHO_REQUEST	  8
#define ECHO_REPLY	  0
#define ECHO_REQUEST_IPV6 128
#define ECHO_REPLY_IPV6	  129

/* The addresses change places, so all sums over them stay as they are. False when the frame is too short for them. */
static __always_inline bool turn_round(struct ethhdr *ethernet, void *end, const struct packet *packet)
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
 * Turns an echo request to the gateway round, or IS_REFUSED. Of a fragmented one the first fragment says what it is,
 * and its checksum, which is of the whole, changes by that. `ethernet` is followed by the whole IP header.
 */
static __always_inline enum outcome answer_echo(struct ethhdr *ethernet, void *end, const struct packet *packet,
						const struct transport *transport)
{
	struct echo *echo = (void *)ethernet + bounded(transport->at, FAR);
	bool ipv6 = INNER_IPV6 && packet->kind == ETH_P_IPV6;
	__u16 before;

	if (transport->protocol != (ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return IS_REFUSED;
	if (transport->later)
		return turn_round(ethernet, end, packet) ? GATEWAY_ECHO : TO_GATEWAY;
	if ((void *)(echo + 1) > end || echo->type != (ipv6 ? ECHO_REQUEST_IPV6 : ECHO_REQUEST) || echo->code)
		return TO_GATEWAY;
	before = *(__u16 *)echo;
	echo->type = ipv6 ? ECHO_REPLY_IPV6 : ECHO_REPLY;
	echo->check =
		checksum_replace(echo->check, before, bpf_htons((__u16)(ipv6 ? ECHO_REPLY_IPV6 : ECHO_REPLY) << 8));
	return turn_round(ethernet, end, packet) ? GATEWAY_ECHO : TO_GATEWAY;
}

#endif
