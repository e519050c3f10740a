/* SPDX-License-Identifier: GPL-2.0-only */
/* Inner packets: each step checks the fixed part, then the declared length, and answers GO_ON or a drop. */
#ifndef DROPLET_PARSE_H
#define DROPLET_PARSE_H

/* The start of TCP, UDP and SCTP alike. */
struct ports {
	__be16 source;
	__be16 destination;
};

/* The system's struct ethhdr is packed, for which clang would read single bytes; frames are aligned to 2. */
static __always_inline __be16 ethertype(const struct ethhdr *ethernet)
{
	return *(__be16 *)&ethernet->h_proto;
}

/* `start` is an inner Ethernet frame of `length` bytes by the outer headers. */
static __always_inline enum outcome check_ipv4(void *start, void *end, __u32 length)
{
	struct iphdr *ip = start + sizeof(struct ethhdr);
	__u32 total, header;

	if ((void *)(ip + 1) > end)
		return MALFORMED_INNER;
	total = bpf_ntohs(ip->tot_len);
	header = ip->ihl * 4;
	if (ip->version != 4 || header < sizeof(*ip) || total < header || total + sizeof(struct ethhdr) > length)
		return MALFORMED_INNER;
	return GO_ON;
}

static __always_inline bool is_multicast(__be32 address)
{
	return (address & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || address == 0xffffffff;
}

/*
 * Hashes a flow: addresses, protocol and, for TCP, UDP and SCTP, ports. Fragments have no ports to look at but in the
 * first one, so all fragments go without: a fragmented packet stays together, though apart from its flow's others.
 * Drops tunnel packets from an endpoint on the way, for which the ports are read anyway.
 */
static __always_inline enum outcome hash_flow(void *start, void *end, __be16 tunnel_port, __u32 *flow)
{
	struct iphdr *ip = start + sizeof(struct ethhdr);
	__u64 addresses = (__u64)ip->saddr << 32 | ip->daddr;
	__u32 fragment = bpf_ntohs(ip->frag_off) & (FRAGMENT_OFFSET | FRAGMENT_MORE);
	__u32 header = ip->ihl * 4;
	struct ports *ports = (void *)ip + header;

	*flow = hash_pair(addresses, ip->protocol);
	if (ip->protocol != IPPROTO_UDP && ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_SCTP)
		return GO_ON;
	if (fragment & FRAGMENT_OFFSET)
		return GO_ON;
	if ((void *)(ports + 1) > end || bpf_ntohs(ip->tot_len) < header + sizeof(*ports))
		return MALFORMED_INNER;
	if (ip->protocol == IPPROTO_UDP && ports->destination == tunnel_port)
		return TUNNEL_FROM_ENDPOINT;
	if (!fragment)
		*flow = hash_pair(addresses, (__u64) * (__u32 *)ports << 8 | ip->protocol);
	return GO_ON;
}

#endif
