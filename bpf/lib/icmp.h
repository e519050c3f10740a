/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * ICMP errors to the senders of inner packets, from their gateway's address: what did not fit (RFC 1191 section 4,
 * RFC 4443 section 3.2), what used up its time to live (RFC 792, RFC 4443 section 3.3), what leads nowhere and what the
 * gateway has no service for (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1). None about an ICMP error, neighbour
 * discovery or a fragment other than the first, none about a group's frame or to a sender that is no single host (RFC
 * 1122 section 3.2.2), and none beyond the rate of TOLD_PER_SECOND.
 */
#ifndef DROPLET_ICMP_H
#define DROPLET_ICMP_H

#include "lib/gateway.h"
#include "lib/nd.h"
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
#define NEXT_HEADER_AT	    6 /* where IPv6 says what follows it, to which ICMPV6_UNKNOWN_NEXT points */

#define QUOTE_IPV4                                                                                                     \
	528 /* with the headers in front 576 at most, less 20 for a tunnel's options (RFC 1812 section 4.3.2.3) */
#define QUOTE_IPV6 1168 /* with the headers in front 1280 at most, less 64 likewise (RFC 4443 section 3.2) */

/* IPv4 and IPv6 alike. `value`: see struct complaint. */
struct icmp_error {
	__u8 type;
	__u8 code;
	__u16 check;
	__be32 value;
};

/* What is told to the sender of a packet. */
struct complaint {
	struct address gateway KEY; /* from whom */
	__u32 value;		    /* the MTU that would fit, where the packet is wrong, or 0 */
	__u32 from;		    /* bytes in front of the inner frame, which go */
	__u16 kind;		    /* the error's type and code */
	bool routed;		    /* nothing routes there: only the gateway of the sender's own network says so */
};

#define KIND(type, code) ((type) << 8 | (code))

/* Why a packet leads nowhere, so that its sender is told. */
static __always_inline bool is_unreachable(enum outcome why)
{
	return why == NO_ENDPOINT || why == NO_NETWORK || why == NO_BOUNCER || why == NO_DIVIDER ||
	       why == ALL_MISDIRECTED;
}

/* Whether transit errors has a say in what ends so. */
static __always_inline bool is_to_be_told(enum outcome why)
{
	return why == DOES_NOT_FIT || why == INNER_TTL || why == IS_REFUSED || is_unreachable(why);
}

/* What is counted when no error is due. */
static __always_inline enum outcome untold(enum outcome why)
{
	if (why == DOES_NOT_FIT)
		return TOO_BIG;
	return why == IS_REFUSED ? TO_GATEWAY : why;
}

static __always_inline bool has_ports(__u32 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP ||
	       protocol == IPPROTO_DCCP || protocol == IPPROTO_UDPLITE;
}

/* The error about `why`, a drop's reason, DOES_NOT_FIT or IS_REFUSED; `protocol` is of what the gateway refuses. */
static __always_inline __u16 error_about(enum outcome why, bool ipv6, __u32 protocol)
{
	if (why == DOES_NOT_FIT)
		return ipv6 ? KIND(ICMPV6_TOO_BIG, 0) : KIND(ICMP_UNREACHABLE, ICMP_NEEDS_SMALLER);
	if (why == INNER_TTL)
		return ipv6 ? KIND(ICMPV6_TTL, 0) : KIND(ICMP_TIME_EXCEEDED, 0);
	if (why == NO_ENDPOINT || why == ALL_MISDIRECTED)
		return ipv6 ? KIND(ICMPV6_UNREACHABLE, ICMPV6_ADDRESS) : KIND(ICMP_UNREACHABLE, ICMP_HOST);
	if (why != IS_REFUSED)
		return ipv6 ? KIND(ICMPV6_UNREACHABLE, ICMPV6_NO_ROUTE) : KIND(ICMP_UNREACHABLE, ICMP_NETWORK);
	if (has_ports(protocol))
		return ipv6 ? KIND(ICMPV6_UNREACHABLE, ICMPV6_PORT) : KIND(ICMP_UNREACHABLE, ICMP_PORT);
	return ipv6 ? KIND(ICMPV6_PARAMETER, ICMPV6_UNKNOWN_NEXT) : KIND(ICMP_UNREACHABLE, ICMP_PROTOCOL);
}

/* Whether an address is a single host's, who can be told anything (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e). */
static __always_inline bool is_single(const struct address *address)
{
	__u8 first = unmapped(address);

	if (INNER_IPV6 && !is_ipv4(address))
		return !is_unspecified(address) && !is_multicast_ipv6(address);
	return first && first != 127 && first < 224;
}

/* Or neighbour discovery, of which a redirect is told nothing either (RFC 4443 section 2.4 e). */
static __always_inline bool is_icmp_error(void *start, void *end, const struct packet *packet,
					  const struct transport *transport)
{
	__u8 *type = start + bounded(transport->at, FAR);

	if (INNER_IPV6 && packet->kind == ETH_P_IPV6)
		return transport->protocol == IPPROTO_ICMPV6 &&
		       ((void *)(type + 1) > end || *type < ICMPV6_FIRST_QUERY ||
			(*type >= ND_FIRST && *type <= ND_LAST));
	return transport->protocol == IPPROTO_ICMP &&
	       ((void *)(type + 1) > end || (*type != ECHO_REQUEST && *type != ECHO_REPLY));
}

/* Whether a packet may be what complain() wrote on another droplet. `ethernet` is followed by the whole IP header. */
static __always_inline bool is_complaint(struct ethhdr *ethernet, void *end, const struct packet *packet)
{
	struct iphdr *ip = (void *)(ethernet + 1);
	struct ipv6hdr *ipv6 = (void *)ip;
	struct icmp_error *error = (void *)(ip + 1);

	if (INNER_IPV6 && packet->kind == ETH_P_IPV6) {
		error = (void *)(ipv6 + 1);
		return (void *)(error + 1) <= end && ipv6->nexthdr == IPPROTO_ICMPV6 &&
		       (error->type == ICMPV6_TOO_BIG || error->type == ICMPV6_TTL ||
			(error->type == ICMPV6_UNREACHABLE &&
			 (error->code == ICMPV6_NO_ROUTE || error->code == ICMPV6_ADDRESS)));
	}
	return (void *)(error + 1) <= end && ip->ihl == 5 && ip->protocol == IPPROTO_ICMP &&
	       !(ip->frag_off & bpf_htons(FRAGMENT_OFFSET | FRAGMENT_MORE)) &&
	       ((error->type == ICMP_UNREACHABLE &&
		 (error->code == ICMP_NEEDS_SMALLER || error->code == ICMP_NETWORK || error->code == ICMP_HOST)) ||
		error->type == ICMP_TIME_EXCEEDED);
}

/*
 * Whether one more error may go to this sender in this second: what did not fit, and all else, are counted apart, so
 * that who tries many addresses is told the MTU of a path all the same. Buckets are shared by chance, and races cost
 * little.
 */
static __always_inline bool may_tell(const struct packet *packet, const struct complaint *complaint)
{
	bool too_big = complaint->kind == KIND(ICMP_UNREACHABLE, ICMP_NEEDS_SMALLER) ||
		       complaint->kind == KIND(ICMPV6_TOO_BIG, 0);
	__u64 whom = (__u64)!too_big << 32 | packet->from.vni;
	__u32 bucket = hash_pair(address_word(&packet->from.address), whom) & (TOLD_BUCKETS - 1);
	struct told *bucket_told = told.lookup(&bucket);
	__u64 now = bpf_jiffies64();

	if (!bucket_told) /* closed: a limit that is not known allows nothing */
		return false;
	if (now - bucket_told->tick >= TICKS_PER_SECOND) {
		bucket_told->tick = now;
		bucket_told->count = 0;
	}
	return bucket_told->count++ < TOLD_PER_SECOND;
}

static __always_inline void write_icmp_ipv4(struct ethhdr *ethernet, void *end, const struct packet *packet,
					    const struct complaint *complaint, __u32 quote)
{
	struct iphdr *ip = (void *)(ethernet + 1);
	struct icmp_error *icmp = (void *)(ip + 1);
	__u32 *word = (__u32 *)ip;
	__u32 total = sizeof(*ip) + sizeof(*icmp) + quote;
	__be32 head = bpf_htonl((__u32)complaint->kind << 16);

	ethernet->h_proto = bpf_htons(ETH_P_IP);
	word[0] = bpf_htonl(0x45000000 | total);
	word[1] = bpf_htonl(FRAGMENT_NEVER); /* so that 0 is an identity (RFC 6864 section 4.1) */
	word[2] = bpf_htonl(NEW_TTL << 24 | IPPROTO_ICMP << 16);
	word[3] = unmapped(&complaint->gateway);
	word[4] = unmapped(&packet->from.address);
	ip->check = checksum_fold(sum_words(ip, sizeof(*ip) / 4));
	*(__be32 *)icmp = head;
	icmp->value = bpf_htonl(complaint->value);
	icmp->check = checksum_fold(sum_bytes(icmp + 1, end, quote, (__u64)head + icmp->value));
}

static __always_inline void write_icmp_ipv6(struct ethhdr *ethernet, void *end, const struct packet *packet,
					    const struct complaint *complaint, __u32 quote)
{
	struct ipv6hdr *ip = (void *)(ethernet + 1);
	struct icmp_error *icmp = (void *)(ip + 1);
	__u32 *word = (__u32 *)ip;
	__u32 length = sizeof(*icmp) + quote;
	__be32 head = bpf_htonl((__u32)complaint->kind << 16);
	__u64 sum;

	ethernet->h_proto = bpf_htons(ETH_P_IPV6);
	word[0] = bpf_htonl(0x60000000);
	word[1] = bpf_htonl(length << 16 | IPPROTO_ICMPV6 << 8 | NEW_TTL);
	copy_address((struct address *)&ip->saddr, &complaint->gateway);
	copy_words(&ip->daddr, &packet->from.address);
	*(__be32 *)icmp = head;
	icmp->value = bpf_htonl(complaint->value);
	sum = sum_pseudo_ipv6(ip, length, IPPROTO_ICMPV6) + head + icmp->value;
	icmp->check = checksum_fold(sum_bytes(icmp + 1, end, quote, sum));
}

/*
 * Makes the frame into the error about the packet that it is, without anything in front: DOES_NOT_FIT for done, else a
 * drop. All pointers into it are void afterwards.
 */
static __always_inline enum outcome complain(context *ctx, const struct packet *packet,
					     const struct complaint *complaint, enum outcome untold)
{
	bool ipv6 = INNER_IPV6 && packet->kind == ETH_P_IPV6;
	__u32 quoted = packet->length - sizeof(struct ethhdr), most = ipv6 ? QUOTE_IPV6 : QUOTE_IPV4;
	int room = sizeof(struct icmp_error) + (ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	struct ethhdr *ethernet = frame_start(ctx) + bounded(complaint->from, MAX_HEADERS);
	const __u8 gateway[6] = GATEWAY_MAC;
	__u8 asker[6];

	if (quoted > most)
		quoted = most;
	if ((void *)(ethernet + 1) > frame_end(ctx))
		return untold;
	copy_mac(asker, ethernet->h_source);
	if (set_length(ctx, complaint->from + sizeof(*ethernet) + quoted))
		return untold;
	if (move_start(ctx, (int)complaint->from - room))
		return NO_HEADROOM;
	ethernet = frame_start(ctx);
	if ((void *)(ethernet + 1) + sizeof(struct ipv6hdr) + sizeof(struct icmp_error) > frame_end(ctx))
		return untold;
	copy_mac(ethernet->h_dest, asker);
	copy_mac(ethernet->h_source, gateway);
	if (ipv6)
		write_icmp_ipv6(ethernet, frame_end(ctx), packet, complaint, quoted);
	else
		write_icmp_ipv4(ethernet, frame_end(ctx), packet, complaint, quoted);
	return DOES_NOT_FIT;
}

/*
 * Whether the sender of a packet may be told an error about it, with the gateway's address that it then comes from: its
 * own network's, or, where that is not known, as at the droplet of a receiver in another network, the receiver's.
 * `ethernet` is where the packet's Ethernet header is, `transport` what find_transport() found.
 */
static __always_inline bool is_told(void *ethernet, void *end, const struct packet *packet,
				    const struct transport *transport, struct complaint *complaint)
{
	struct network *network;

	if (!packet->length || !is_single(&packet->from.address)) /* not of IP, or of nobody */
		return false;
	if (ethernet + sizeof(struct ethhdr) > end || is_group(ethernet))
		return false;
	if (transport->later || is_icmp_error(ethernet, end, packet, transport))
		return false;
	network = network_of(&packet->from);
	if (!network && !complaint->routed)
		network = network_of(&packet->to);
	if (!network || (network->broadcast && network->broadcast == unmapped(&packet->from.address)))
		return false;
	if (!may_tell(packet, complaint)) /* closed: there is nobody to speak for */
		return false;
	copy_address(&complaint->gateway, &network->gateway);
	return true;
}

#endif
