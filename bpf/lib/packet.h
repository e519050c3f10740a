/* SPDX-License-Identifier: GPL-2.0-only */
/* Parsing and rewriting of inner packets. */
#ifndef DROPLET_PACKET_H
#define DROPLET_PACKET_H

#include "lib/address.h"
#include "lib/checksum.h"
#include "outcomes.h"

/* struct ethhdr is packed, so clang would read single bytes; frames are aligned to 2. */
static __always_inline __be16 ethertype(const struct ethhdr *ethernet)
{
	return *(__be16 *)&ethernet->h_proto;
}

/* `start` is an Ethernet frame; `length` its length according to the outer headers. */
static __always_inline enum outcome read_ipv4(void *start, void *end, __u32 length, __u32 vni, struct packet *packet)
{
	struct iphdr *ip = start + sizeof(struct ethhdr);
	__u32 total, header;

	if ((void *)(ip + 1) > end)
		return MALFORMED_INNER;
	total = bpf_ntohs(ip->tot_len);
	header = ip->ihl * 4;
	if (ip->version != 4 || header < sizeof(*ip) || total < header || total + sizeof(struct ethhdr) > length)
		return MALFORMED_INNER;
	packet->length = sizeof(struct ethhdr) + total;
	packet->kind = ETH_P_IP;
	packet->tos = ip->tos;
	packet->ttl = ip->ttl;
	set_key(&packet->from, vni, ip->saddr);
	set_key(&packet->to, vni, ip->daddr);
	return CONTINUE;
}

static __always_inline enum outcome read_ipv6(void *start, void *end, __u32 length, __u32 vni, struct packet *packet)
{
	struct ipv6hdr *ip = start + sizeof(struct ethhdr);
	__u32 whole;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return MALFORMED_INNER;
	whole = sizeof(struct ethhdr) + sizeof(*ip) + bpf_ntohs(ip->payload_len);
	if (whole > length)
		return MALFORMED_INNER;
	packet->length = whole;
	packet->kind = ETH_P_IPV6;
	packet->tos = traffic_class(ip);
	packet->ttl = ip->hop_limit;
	set_key_ipv6(&packet->from, vni, &ip->saddr);
	set_key_ipv6(&packet->to, vni, &ip->daddr);
	/* Not valid on the wire (RFC 4291 section 2.5.5.2), and would be confused with the IPv4 address. */
	if (is_ipv4(&packet->from.address) || is_ipv4(&packet->to.address))
		return MALFORMED_INNER;
	return CONTINUE;
}

/* CONTINUE for a valid IP packet, INNER_PROTOCOL for another EtherType. */
static __always_inline enum outcome read_packet(struct ethhdr *ethernet, void *end, __u32 length, __u32 vni,
						struct packet *packet)
{
	if (ethertype(ethernet) == bpf_htons(ETH_P_IP))
		return read_ipv4(ethernet, end, length, vni, packet);
	if (INNER_IPV6 && ethertype(ethernet) == bpf_htons(ETH_P_IPV6))
		return read_ipv6(ethernet, end, length, vni, packet);
	return INNER_PROTOCOL;
}

/* Whether the IP header of a parsed packet is in the frame: for the verifier, where pointers are taken again. */
static __always_inline bool has_ip_header(struct ethhdr *ethernet, void *end, const struct packet *packet)
{
	bool ipv6 = INNER_IPV6 && packet->kind == ETH_P_IPV6;

	return (void *)(ethernet + 1) + (ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) <= end;
}

static __always_inline bool is_multicast_packet(const struct packet *packet)
{
	if (INNER_IPV6 && packet->kind == ETH_P_IPV6)
		return is_multicast_ipv6(&packet->to.address);
	return is_multicast(unmapped(&packet->to.address));
}

/*
 * As a router does, for a packet to the gateway's Ethernet address. INNER_TTL if it has no time to live left.
 * `ethernet` is followed by the whole IP header.
 */
static __always_inline enum outcome decrement_ttl(struct ethhdr *ethernet, const struct packet *packet)
{
	void *ip = ethernet + 1;

	if (packet->ttl <= 1)
		return INNER_TTL;
	if (INNER_IPV6 && packet->kind == ETH_P_IPV6)
		((struct ipv6hdr *)ip)->hop_limit = packet->ttl - 1;
	else
		set_ttl(ip, packet->ttl - 1);
	return CONTINUE;
}

/*
 * Copies the congestion mark of the outer header to the inner packet and to `packet->tos` (RFC 6040 section 4.2).
 * `ethernet` is followed by the whole IP header.
 */
static __always_inline enum outcome merge_ecn(struct ethhdr *ethernet, struct packet *packet, __u8 outer_tos)
{
	__u8 outer = outer_tos & ECN_MASK, inner = packet->tos & ECN_MASK;

	if (outer == ECN_CE && !inner)
		return ECN_NOT_CAPABLE;
	if (inner && inner != ECN_CE && outer == ECN_CE)
		packet->tos |= ECN_CE;
	else if (inner == ECN_ECT0 && outer == ECN_ECT1)
		packet->tos = (packet->tos & ~ECN_MASK) | ECN_ECT1;
	else
		return CONTINUE;
	if (INNER_IPV6 && packet->kind == ETH_P_IPV6)
		set_traffic_class((struct ipv6hdr *)(ethernet + 1), packet->tos);
	else
		set_tos((struct iphdr *)(ethernet + 1), packet->tos);
	return CONTINUE;
}

#endif
