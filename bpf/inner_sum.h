/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The sum of an inner frame without reading it all: the checksum of its transport says what the sum of the transport
 * is, if it is right. If the endpoint sent a wrong one, the tunnel packet's checksum is wrong too and it is dropped on
 * arrival, instead of by the endpoint there. (The kernel calls this local checksum offload:
 * Documentation/networking/checksum-offloads.rst.)
 */
#ifndef DROPLET_INNER_SUM_H
#define DROPLET_INNER_SUM_H

#define TCP_CHECK_END 18

/* Whether the transport's checksum is there and covers all of it. */
static __always_inline bool is_summed(void *start, void *end, const struct packet *packet,
				      const struct transport *transport)
{
	struct udphdr *udp = start + bounded(transport->at, FAR);

	if (transport->fragment || transport->extended)
		return false;
	if (transport->protocol == IPPROTO_TCP)
		return transport->at + TCP_CHECK_END <= packet->length;
	/* What follows UDP's own length inside the packet (RFC 9868) is under no checksum. */
	return transport->protocol == IPPROTO_UDP && (void *)(udp + 1) <= end && udp->check &&
	       transport->at + bpf_ntohs(udp->len) == packet->length;
}

/* 0 when the frame must be read. `length` is that of the frame, from `start` on. */
static __always_inline __u64 sum_inner(void *start, void *end, __u32 length, const struct packet *packet,
				       const struct transport *transport)
{
	struct iphdr *ip = start + sizeof(struct ethhdr);
	struct ipv6hdr *ipv6 = (void *)ip;
	__u32 segment = packet->length - transport->at;
	__u64 sum;

	if (packet->length != length || (void *)(ip + 1) > end || !is_summed(start, end, packet, transport))
		return 0;
	sum = sum_words(start, 3) + *(__u16 *)(start + 12);
	if (packet->kind == ETH_P_IP) /* whose own checksum makes the header's sum nothing */
		return sum + (__u16)~sum_fold(sum_pseudo_ipv4(ip, segment, transport->protocol));
	if ((void *)(ipv6 + 1) > end)
		return 0;
	sum += sum_words(ipv6, sizeof(*ipv6) / 4);
	return sum + (__u16)~sum_fold(sum_pseudo_ipv6(ipv6, segment, transport->protocol));
}

#endif
