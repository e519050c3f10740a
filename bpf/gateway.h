/* SPDX-License-Identifier: GPL-2.0-only */
/* What a network's gateway answers itself: echo requests (RFC 792). */
#ifndef DROPLET_GATEWAY_H
#define DROPLET_GATEWAY_H

struct echo {
	__u8 type;
	__u8 code;
	__u16 check;
};

#define ECHO_REQUEST 8
#define ECHO_REPLY   0

/* Turns an echo request to the gateway round. The IPv4 header's checksum covers the same words afterwards. */
static __always_inline enum outcome answer_echo(struct ethhdr *ethernet, void *end)
{
	struct iphdr *ip = (void *)(ethernet + 1);
	struct echo *echo = (void *)ip + ip->ihl * 4;
	const __u8 gateway[6] = GATEWAY_MAC;
	__be32 asker = ip->saddr;
	__u16 before;

	if (ip->protocol != IPPROTO_ICMP || ip->frag_off & bpf_htons(FRAGMENT_OFFSET | FRAGMENT_MORE) ||
	    (void *)(echo + 1) > end || echo->type != ECHO_REQUEST || echo->code)
		return TO_GATEWAY;
	before = *(__u16 *)echo;
	echo->type = ECHO_REPLY;
	echo->check = checksum_replace(echo->check, before, *(__u16 *)echo);
	ip->saddr = ip->daddr;
	ip->daddr = asker;
	copy_mac(ethernet->h_dest, ethernet->h_source);
	copy_mac(ethernet->h_source, gateway);
	return GATEWAY_ECHO;
}

#endif
