/* SPDX-License-Identifier: GPL-2.0-only */
/* The Internet checksum (RFC 1071) and its update (RFC 1624 equation 3). Words are summed in memory byte order. */
#ifndef DROPLET_CHECKSUM_H
#define DROPLET_CHECKSUM_H

#include "lib/transport.h"
#include "lib/verifier.h"

/* Folds a sum to 16 bits, without inverting it: 0xffff if a checksum is right. */
static __always_inline __u16 sum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static __always_inline __u16 checksum_fold(__u64 sum)
{
	return ~sum_fold(sum);
}

/* The pseudo-header of a packet; `length` and `protocol` in host order. */
static __always_inline __u64 sum_pseudo(const struct packet *packet, __u32 length, __u32 protocol)
{
	const struct address *from = &packet->from.address, *to = &packet->to.address;
	__u64 sum = (__u64)bpf_htonl(length) + bpf_htonl(protocol);

	if (!INNER_IPV6 || packet->kind == ETH_P_IP)
		return sum + unmapped(from) + unmapped(to);
	for (int i = 0; i < 4; i++)
		sum += (__u64)from->word[i] + to->word[i];
	return sum;
}

/* Updates a checksum after a change of one word. */
static __always_inline __u16 checksum_replace(__u16 check, __u16 old, __u16 new)
{
	return checksum_fold((__u64)(__u16)~check + (__u16)~old + new);
}

static __always_inline __u64 sum_words(const void *at, int words)
{
	__u64 sum = 0;

#pragma unroll
	for (int word = 0; word < words; word++)
		sum += ((const __u32 *)at)[word];
	return sum;
}

#define SUM_MOST  0x3fff /* a mask above the longest frame: 9,000 bytes, in generic mode */
#define SUM_CHUNK 512	 /* the most that BPF_FUNC_csum_diff sums in one call */

/*
 * Sums the part for one bit of `length`: `size` bytes, a power of two. Parts for higher bits come first, so the offset
 * of a part depends on the length alone, not on the parts before it.
 */
static __always_inline __u64 sum_part(void *start, void *end, __u32 length, __u32 size)
{
	void *at = start + bounded(length, SUM_MOST & ~(2 * size - 1));
	__u32 chunk = size < SUM_CHUNK ? size : SUM_CHUNK, part = length & size;
	__u64 sum = 0;

	asm volatile(
		""
		: "+r"(at)); /* else clang would recompute it, and the verifier would not see that it was checked */
	asm volatile(""
		     : "+r"(part)); /* else clang would test the length itself, and the verifier would track its bits */
	if (!part || at + size > end)
		return 0;
#pragma unroll
	for (__u32 i = 0; i < size / chunk; i++)
		sum += chunk >= 64 ? (__u32)bpf_csum_diff(0, 0, at + i * chunk, chunk, 0)
				   : sum_words(at + i * chunk, chunk / 4);
	return sum;
}

/*
 * Adds `length` bytes from `start` to a sum, at an even offset; less than 4,096. Bytes beyond the frame's end are
 * skipped, so a sum that needs them is wrong. There is no loop, so the verifier has few paths to follow.
 */
static __always_inline __u64 sum_bytes(void *start, void *end, __u32 length, __u64 sum)
{
	void *at;

	mark_unknown(sum);
	mark_unknown(length);
	sum += sum_part(start, end, length, 2048);
	sum += sum_part(start, end, length, 1024);
	sum += sum_part(start, end, length, 512);
	sum += sum_part(start, end, length, 256);
	sum += sum_part(start, end, length, 128);
	sum += sum_part(start, end, length, 64);
	sum += sum_part(start, end, length, 32);
	sum += sum_part(start, end, length, 16);
	sum += sum_part(start, end, length, 8);
	sum += sum_part(start, end, length, 4);
	at = start + bounded(length, SUM_MOST & ~3);
	if (length & 2 && at + 2 <= end)
		sum += *(__u16 *)at;
	at = start + bounded(length, SUM_MOST & ~1);
	if (length & 1 && at + 1 <= end)
		sum += bpf_htons((__u16) * (__u8 *)at << 8);
	return sum;
}

/* The same for the longest frame. */
static __always_inline __u64 sum_frame(void *start, void *end, __u32 length, __u64 sum)
{
	mark_unknown(sum);
	mark_unknown(length);
	sum += sum_part(start, end, length, 8192);
	sum += sum_part(start, end, length, 4096);
	return sum_bytes(start, end, length, sum);
}

/* The pseudo-header of UDP, TCP and ICMPv6; `length` and `protocol` in host order. */
static __always_inline __u64 sum_pseudo_ipv4(const struct iphdr *ip, __u32 length, __u32 protocol)
{
	return (__u64)ip->saddr + ip->daddr + bpf_htonl(length) + bpf_htonl(protocol);
}

static __always_inline __u64 sum_pseudo_ipv6(const struct ipv6hdr *ip, __u32 length, __u32 protocol)
{
	return sum_words(&ip->saddr, 8) + bpf_htonl(length) + bpf_htonl(protocol);
}

/* Writes the whole word, as wide as the next load of it. */
static __always_inline void set_ipv4_word(struct iphdr *ip, __u16 *word, __u16 after)
{
	__u16 before = *word;

	*word = after;
	ip->check = checksum_replace(ip->check, before, after);
}

static __always_inline void set_tos(struct iphdr *ip, __u8 tos)
{
	__u16 *word = (__u16 *)ip;

	set_ipv4_word(ip, word, (*word & bpf_htons(0xff00)) | bpf_htons(tos));
}

/* Time to live and protocol share a word. */
static __always_inline void set_ttl(struct iphdr *ip, __u8 ttl)
{
	__u16 *word = (__u16 *)&ip->ttl;

	set_ipv4_word(ip, word, (*word & bpf_htons(0x00ff)) | bpf_htons((__u16)ttl << 8));
}

/* The traffic class is between the version and the flow label. */
static __always_inline __u8 traffic_class(const struct ipv6hdr *ip)
{
	return bpf_ntohs(*(__be16 *)ip) >> 4;
}

static __always_inline void set_traffic_class(struct ipv6hdr *ip, __u8 class)
{
	__u16 word = bpf_ntohs(*(__be16 *)ip);

	*(__be16 *)ip = bpf_htons((word & 0xf00f) | (__u16) class << 4);
}

/*
 * The sum of an inner frame without reading all of it (local checksum offload in the kernel's terms,
 * Documentation/networking/checksum-offloads.rst): the sum of a TCP or UDP segment follows from its checksum. If that
 * is wrong, the outer checksum is wrong too, and the receiving droplet drops the packet instead of its endpoint.
 */
#define TCP_CHECK     16 /* offset of the field */
#define TCP_CHECK_END 18
#define UDP_CHECK     6

/* Whether the segment has a checksum that covers all of it. */
static __always_inline bool has_full_checksum(void *start, void *end, const struct packet *packet,
					      const struct transport *transport)
{
	struct udphdr *udp = start + bounded(transport->offset, MAX_OFFSET);

	if (transport->fragment || transport->extended)
		return false;
	if (transport->protocol == IPPROTO_TCP)
		return transport->offset + TCP_CHECK_END <= packet->length;
	/* No checksum covers bytes beyond UDP's length (RFC 9868). */
	return transport->protocol == IPPROTO_UDP && (void *)(udp + 1) <= end && udp->check &&
	       transport->offset + bpf_ntohs(udp->len) == packet->length;
}

/*
 * The field with the checksum of a TCP or UDP segment if a device is to complete it: the sum of the pseudo-header is in
 * its place (CHECKSUM_PARTIAL of tc). NULL if it is complete. `start` is the Ethernet header.
 */
static __always_inline __u16 *unfinished_checksum(void *start, void *end, const struct packet *packet,
						  const struct transport *transport)
{
	bool tcp = transport->protocol == IPPROTO_TCP;
	__u32 at = bounded(transport->offset + (tcp ? TCP_CHECK : UDP_CHECK), MAX_OFFSET);
	__u32 segment = packet->length - transport->offset;
	__u16 *field = start + at;

	if (!packet->length || !transport->parsed || transport->fragment ||
	    (!tcp && transport->protocol != IPPROTO_UDP) || (void *)(field + 1) > end)
		return 0;
	return *field == sum_fold(sum_pseudo(packet, segment, transport->protocol)) ? field : 0;
}

/* The sum of an inner frame: of what is known of it, and how many bytes from its start are to be added. */
struct inner_sum {
	__u64 known;
	__u32 unread;
};

/*
 * With R for the sum of a segment without its checksum and c for what is in its place, a device completes it to
 * -(R + c), so the segment then sums to -c, and only the headers in front of it must be read.
 */
static __always_inline void take_unfinished(void *start, void *end, const struct packet *packet,
					    const struct transport *transport, struct inner_sum *inner)
{
	__u16 *field = unfinished_checksum(start, end, packet, transport);

	if (!field)
		return;
	inner->known = (__u16) ~*field;
	inner->unread = transport->offset;
}

/* Leaves `inner` as it is if the frame must be read. `length` is that of the frame. */
static __always_inline void take_inner(void *start, void *end, __u32 length, const struct packet *packet,
				       const struct transport *transport, struct inner_sum *inner)
{
	struct iphdr *ip = start + sizeof(struct ethhdr);
	struct ipv6hdr *ipv6 = (void *)ip;
	__u32 segment = packet->length - transport->offset;
	__u64 sum;

	if (packet->length != length || (void *)(ip + 1) > end || !has_full_checksum(start, end, packet, transport))
		return;
	sum = sum_words(start, 3) + *(__u16 *)(start + 12);
	if (packet->kind == ETH_P_IP) { /* its header sums to zero */
		inner->known = sum + (__u16)~sum_fold(sum_pseudo_ipv4(ip, segment, transport->protocol));
		inner->unread = 0;
		return;
	}
	if ((void *)(ipv6 + 1) > end)
		return;
	sum += sum_words(ipv6, sizeof(*ipv6) / 4);
	inner->known = sum + (__u16)~sum_fold(sum_pseudo_ipv6(ipv6, segment, transport->protocol));
	inner->unread = 0;
}

#endif
