/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * ICMP errors to the senders of inner packets, from the address of their gateway: packet too big (RFC 1191 section 4,
 * RFC 4443 section 3.2), time exceeded (RFC 792, RFC 4443 section 3.3), destination unreachable, and port or protocol
 * unreachable at the gateway (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1).
 *
 * None is sent about an ICMP error, neighbour discovery, a fragment other than the first or a multicast frame, to a
 * sender address that is not unicast (RFC 1122 section 3.2.2), or above ICMP_ERRORS_PER_SECOND.
 */
#ifndef DROPLET_ICMP_H
#define DROPLET_ICMP_H

#include "lib/gateway.h"
#include "lib/nd.h"
#include "lib/ratelimit.h"
#include "lib/route.h"

/* Types, and codes of ICMP_UNREACHABLE and ICMPV6_UNREACHABLE. */
#define ICMP_UNREACHABLE    3
#define ICMP_NETWORK	    0
#define ICMP_HOST	    1
#define ICMP_PROTOCOL	    2
#define ICMP_PORT	    3
#define ICMP_NEEDS_SMALLER  4
#define ICMP_TIME_EXCEEDED  11
#define ICMPV6_UNREACHABLE  1
#define ICMPV6_NO_ROUTE	    0
#define ICMPV6_ADDRESS	    3
#define ICMPV6_PORT	    4
#define ICMPV6_TOO_BIG	    2
#define ICMPV6_TTL	    3
#define ICMPV6_PARAMETER    4
#define ICMPV6_UNKNOWN_NEXT 1 /* code of ICMPV6_PARAMETER */
#define ICMPV6_FIRST_QUERY  128
#define NEXT_HEADER_OFFSET  6 /* of the next header field in IPv6, which ICMPV6_UNKNOWN_NEXT points to */

#define QUOTE_IPV4 528	/* 576 bytes with the headers (RFC 1812 section 4.3.2.3), less 20 for outer options */
#define QUOTE_IPV6 1168 /* 1280 bytes with the headers (RFC 4443 section 3.2), less 64 for outer options */

/* For IPv4 and IPv6. `value`: see struct icmp_error. */
struct icmp_header {
	__u8 type;
	__u8 code;
	__u16 check;
	__be32 value;
};

/* An ICMP error to be written. */
struct icmp_error {
	struct address gateway KEY; /* the source */
	__u32 value;		    /* MTU, pointer, or 0 */
	__u32 strip;		    /* bytes in front of the inner frame, which are removed */
	__u16 type_code;	    /* TYPE_CODE(type, code) */
	bool own_gateway;	    /* only the gateway of the sender's own network may send it */
};

#define TYPE_CODE(type, code) ((type) << 8 | (code))

/* Whether a drop reason proves that the destination is unreachable. */
static __always_inline bool is_unreachable(enum outcome reason)
{
	return reason == NO_ENDPOINT || reason == NO_NETWORK || reason == NO_BOUNCER || reason == NO_DIVIDER ||
	       reason == ALL_MISDIRECTED;
}

/* Whether transit errors handles this outcome. */
static __always_inline bool needs_icmp_error(enum outcome reason)
{
	return reason == EXCEEDS_MTU || reason == INNER_TTL || reason == NO_SERVICE || is_unreachable(reason);
}

/* The outcome if no error may be sent. */
static __always_inline enum outcome drop_reason(enum outcome reason)
{
	if (reason == EXCEEDS_MTU)
		return TOO_BIG;
	return reason == NO_SERVICE ? TO_GATEWAY : reason;
}

static __always_inline bool has_ports(__u32 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP ||
	       protocol == IPPROTO_DCCP || protocol == IPPROTO_UDPLITE;
}

/* `reason` is a drop reason, EXCEEDS_MTU or NO_SERVICE; `protocol` is of the packet that the gateway refuses. */
static __always_inline __u16 icmp_type_code(enum outcome reason, bool ipv6, __u32 protocol)
{
	if (reason == EXCEEDS_MTU)
		return ipv6 ? TYPE_CODE(ICMPV6_TOO_BIG, 0) : TYPE_CODE(ICMP_UNREACHABLE, ICMP_NEEDS_SMALLER);
	if (reason == INNER_TTL)
		return ipv6 ? TYPE_CODE(ICMPV6_TTL, 0) : TYPE_CODE(ICMP_TIME_EXCEEDED, 0);
	if (reason == NO_ENDPOINT || reason == ALL_MISDIRECTED)
		return ipv6 ? TYPE_CODE(ICMPV6_UNREACHABLE, ICMPV6_ADDRESS) : TYPE_CODE(ICMP_UNREACHABLE, ICMP_HOST);
	if (reason != NO_SERVICE)
		return ipv6 ? TYPE_CODE(ICMPV6_UNREACHABLE, ICMPV6_NO_ROUTE)
			    : TYPE_CODE(ICMP_UNREACHABLE, ICMP_NETWORK);
	if (has_ports(protocol))
		return ipv6 ? TYPE_CODE(ICMPV6_UNREACHABLE, ICMPV6_PORT) : TYPE_CODE(ICMP_UNREACHABLE, ICMP_PORT);
	return ipv6 ? TYPE_CODE(ICMPV6_PARAMETER, ICMPV6_UNKNOWN_NEXT) : TYPE_CODE(ICMP_UNREACHABLE, ICMP_PROTOCOL);
}

/* Whether an address can be that of a single host (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e). */
static __always_inline bool is_unicast(const struct address *address)
{
	__u8 first = unmapped(address);

	if (INNER_IPV6 && !is_ipv4(address))
		return !is_unspecified(address) && !is_multicast_ipv6(address);
	return first && first != 127 && first < 224;
}

/* Or neighbour discovery, which includes redirects (RFC 4443 section 2.4 e). */
static __always_inline bool is_icmp_error(void *start, void *end, const struct packet *packet,
					  const struct transport *transport)
{
	__u8 *type = start + bounded(transport->offset, MAX_OFFSET);

	if (INNER_IPV6 && packet->kind == ETH_P_IPV6)
		return transport->protocol == IPPROTO_ICMPV6 &&
		       ((void *)(type + 1) > end || *type < ICMPV6_FIRST_QUERY ||
			(*type >= ND_FIRST && *type <= ND_LAST));
	return transport->protocol == IPPROTO_ICMP &&
	       ((void *)(type + 1) > end || (*type != ECHO_REQUEST && *type != ECHO_REPLY));
}

/* Whether a packet looks like an error that another droplet wrote. `ethernet` is followed by the whole IP header. */
static __always_inline bool may_be_gateway_error(struct ethhdr *ethernet, void *end, const struct packet *packet)
{
	struct iphdr *ip = (void *)(ethernet + 1);
	struct ipv6hdr *ipv6 = (void *)ip;
	struct icmp_header *icmp = (void *)(ip + 1);

	if (INNER_IPV6 && packet->kind == ETH_P_IPV6) {
		icmp = (void *)(ipv6 + 1);
		return (void *)(icmp + 1) <= end && ipv6->nexthdr == IPPROTO_ICMPV6 &&
		       (icmp->type == ICMPV6_TOO_BIG || icmp->type == ICMPV6_TTL ||
			(icmp->type == ICMPV6_UNREACHABLE &&
			 (icmp->code == ICMPV6_NO_ROUTE || icmp->code == ICMPV6_ADDRESS)));
	}
	return (void *)(icmp + 1) <= end && ip->ihl == 5 && ip->protocol == IPPROTO_ICMP &&
	       !(ip->frag_off & bpf_htons(FRAGMENT_OFFSET | FRAGMENT_MORE)) &&
	       ((icmp->type == ICMP_UNREACHABLE &&
		 (icmp->code == ICMP_NEEDS_SMALLER || icmp->code == ICMP_NETWORK || icmp->code == ICMP_HOST)) ||
		icmp->type == ICMP_TIME_EXCEEDED);
}

/*
 * Takes a token for an answer to this sender. Errors about the MTU have buckets of their own, so that a sender that
 * scans addresses still learns the MTU of its paths. Senders may share a bucket by hash collision.
 */
static __always_inline bool ratelimit_allows(const struct packet *packet, const struct icmp_error *error)
{
	bool too_big = error->type_code == TYPE_CODE(ICMP_UNREACHABLE, ICMP_NEEDS_SMALLER) ||
		       error->type_code == TYPE_CODE(ICMPV6_TOO_BIG, 0);
	__u64 sender = (__u64)!too_big << 32 | packet->from.vni;
	__u32 index = hash_pair(address_word(&packet->from.address), sender) & (ICMP_RATELIMIT_BUCKETS - 1);
	struct token_bucket *bucket = icmp_ratelimit.lookup(&index);

	/* Closed: without a bucket nothing is sent. */
	return bucket && ratelimit_take(bucket, ICMP_ERRORS_PER_SECOND, ICMP_ERRORS_BURST);
}

static __always_inline void write_icmp_ipv4(struct ethhdr *ethernet, void *end, const struct packet *packet,
					    const struct icmp_error *error, __u32 quote)
{
	struct iphdr *ip = (void *)(ethernet + 1);
	struct icmp_header *icmp = (void *)(ip + 1);
	__u32 *word = (__u32 *)ip;
	__u32 total = sizeof(*ip) + sizeof(*icmp) + quote;
	__be32 head = bpf_htonl((__u32)error->type_code << 16);

	ethernet->h_proto = bpf_htons(ETH_P_IP);
	word[0] = bpf_htonl(0x45000000 | total);
	word[1] = bpf_htonl(FRAGMENT_NEVER); /* DF, so the identification may be 0 (RFC 6864 section 4.1) */
	word[2] = bpf_htonl(NEW_TTL << 24 | IPPROTO_ICMP << 16);
	word[3] = unmapped(&error->gateway);
	word[4] = unmapped(&packet->from.address);
	ip->check = checksum_fold(sum_words(ip, sizeof(*ip) / 4));
	*(__be32 *)icmp = head;
	icmp->value = bpf_htonl(error->value);
	icmp->check = checksum_fold(sum_bytes(icmp + 1, end, quote, (__u64)head + icmp->value));
}

static __always_inline void write_icmp_ipv6(struct ethhdr *ethernet, void *end, const struct packet *packet,
					    const struct icmp_error *error, __u32 quote)
{
	struct ipv6hdr *ip = (void *)(ethernet + 1);
	struct icmp_header *icmp = (void *)(ip + 1);
	__u32 *word = (__u32 *)ip;
	__u32 length = sizeof(*icmp) + quote;
	__be32 head = bpf_htonl((__u32)error->type_code << 16);
	__u64 sum;

	ethernet->h_proto = bpf_htons(ETH_P_IPV6);
	word[0] = bpf_htonl(0x60000000);
	word[1] = bpf_htonl(length << 16 | IPPROTO_ICMPV6 << 8 | NEW_TTL);
	copy_address((struct address *)&ip->saddr, &error->gateway);
	copy_words(&ip->daddr, &packet->from.address);
	*(__be32 *)icmp = head;
	icmp->value = bpf_htonl(error->value);
	sum = sum_pseudo_ipv6(ip, length, IPPROTO_ICMPV6) + head + icmp->value;
	icmp->check = checksum_fold(sum_bytes(icmp + 1, end, quote, sum));
}

/*
 * The checksum of a quoted packet may not be complete: the field has the sum of the pseudo-header, and a device, to
 * which the frame is still marked so, will sum the quoted segment and write the result there. That must not change the
 * sum of the error's payload. With R for the sum of the segment without the field and c for the field, the sum is R + c
 * before and -c after, so c must be -R/2, modulo 0xffff.
 */
static __always_inline void settle_checksum(void *quote, void *end, __u32 quoted, const struct packet *packet,
					    const struct transport *transport)
{
	__u32 at = bounded(transport->offset, MAX_OFFSET) - sizeof(struct ethhdr);
	__u32 segment = packet->length - transport->offset, rest;
	bool tcp = transport->protocol == IPPROTO_TCP;
	__u16 *field;

	if (transport->fragment || (!tcp && transport->protocol != IPPROTO_UDP))
		return;
	field = quote + bounded(at + (tcp ? TCP_CHECK : UDP_CHECK), MAX_OFFSET);
	if ((void *)(field + 1) > end || *field != sum_fold(sum_pseudo(packet, segment, transport->protocol)))
		return;
	rest = sum_fold(sum_bytes(quote + bounded(at, MAX_OFFSET), end, quoted - at, (__u16) ~*field));
	rest = 0xffff - rest;
	*field = rest & 1 ? (rest + 0xffff) / 2 : rest / 2;
}

/*
 * Replaces the packet by the error about it, without outer headers: CONTINUE, or a drop. Invalidates all pointers into
 * the frame.
 */
static __always_inline enum outcome write_icmp_error(context *ctx, const struct packet *packet,
						     const struct transport *transport, const struct icmp_error *error,
						     enum outcome otherwise)
{
	bool ipv6 = INNER_IPV6 && packet->kind == ETH_P_IPV6;
	__u32 quoted = packet->length - sizeof(struct ethhdr), most = ipv6 ? QUOTE_IPV6 : QUOTE_IPV4;
	int added = sizeof(struct icmp_header) + (ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	struct ethhdr *ethernet = frame_start(ctx) + bounded(error->strip, MAX_HEADERS);
	const __u8 gateway[6] = GATEWAY_MAC;
	__u8 asker[6];

	if (quoted > most)
		quoted = most;
	if ((void *)(ethernet + 1) > frame_end(ctx))
		return otherwise;
	copy_mac(asker, ethernet->h_source);
	if (set_frame_length(ctx, error->strip + sizeof(*ethernet) + quoted))
		return otherwise;
	if (resize_front(ctx, (int)error->strip - added))
		return NO_HEADROOM;
	ethernet = frame_start(ctx);
	if ((void *)(ethernet + 1) + sizeof(struct ipv6hdr) + sizeof(struct icmp_header) > frame_end(ctx))
		return otherwise;
	copy_mac(ethernet->h_dest, asker);
	copy_mac(ethernet->h_source, gateway);
	if (HAS_GSO)
		settle_checksum((void *)(ethernet + 1) + added, frame_end(ctx), quoted, packet, transport);
	if (ipv6)
		write_icmp_ipv6(ethernet, frame_end(ctx), packet, error, quoted);
	else
		write_icmp_ipv4(ethernet, frame_end(ctx), packet, error, quoted);
	return CONTINUE;
}

/*
 * Whether an error about a packet may be sent; fills error->gateway: the gateway of the sender's network, or of the
 * receiver's if the sender's is unknown here. Takes a token of the rate limit. `ethernet` is the packet's Ethernet
 * header.
 */
static __always_inline bool may_send_icmp_error(void *ethernet, void *end, const struct packet *packet,
						const struct transport *transport, struct icmp_error *error)
{
	struct network *network;

	if (!packet->length || !is_unicast(&packet->from.address)) /* not IP, or not from a host */
		return false;
	if (ethernet + sizeof(struct ethhdr) > end || is_group_mac(ethernet))
		return false;
	if (transport->later || is_icmp_error(ethernet, end, packet, transport))
		return false;
	network = network_of(&packet->from);
	if (!network && !error->own_gateway)
		network = network_of(&packet->to);
	/* Closed: without a network there is no gateway. */
	if (!network || (network->broadcast && network->broadcast == unmapped(&packet->from.address)))
		return false;
	if (!ratelimit_allows(packet, error))
		return false;
	copy_address(&error->gateway, &network->gateway);
	return true;
}

#endif
