/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * ICMP errors to the senders of inner packets, from their gateway's address: what did not fit (RFC 1191 section 4,
 * RFC 4443 section 3.2) and what used up its time to live (RFC 792, RFC 4443 section 3.3). None about an ICMP error,
 * about a fragment other than the first, or beyond the rate of TOLD_PER_SECOND.
 */
#ifndef DROPLET_ICMP_H
#define DROPLET_ICMP_H

#define ICMP_UNREACHABLE   3
#define ICMP_NEEDS_SMALLER 4 /* code of ICMP_UNREACHABLE */
#define ICMP_TIME_EXCEEDED 11
#define ICMPV6_TOO_BIG	   2
#define ICMPV6_TTL	   3
#define ICMPV6_FIRST_QUERY 128

#define QUOTE_IPV4                                                                                                     \
	528 /* with the headers in front 576 at most, less 20 for a tunnel's options (RFC 1812 section 4.3.2.3) */
#define QUOTE_IPV6 1168 /* with the headers in front 1280 at most, less 64 likewise (RFC 4443 section 3.2) */

/* IPv4 and IPv6 alike. `value` holds the MTU, for IPv4 in its lower half. */
struct icmp_error {
	__u8 type;
	__u8 code;
	__u16 check;
	__be32 value;
};

/* What is told to the sender of a packet. */
struct complaint {
	struct address gateway KEY; /* from whom */
	__u32 mtu;		    /* that would fit; 0: it is about time to live */
	__u32 from;		    /* bytes in front of the inner frame, which go */
};

static __always_inline bool is_icmp_error(void *start, void *end, const struct packet *packet,
					  const struct transport *transport)
{
	__u8 *type = start + bounded(transport->at, FAR);

	if (INNER_IPV6 && packet->kind == ETH_P_IPV6)
		return transport->protocol == IPPROTO_ICMPV6 &&
		       ((void *)(type + 1) > end || *type < ICMPV6_FIRST_QUERY);
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
		       (error->type == ICMPV6_TOO_BIG || error->type == ICMPV6_TTL);
	}
	return (void *)(error + 1) <= end && ip->ihl == 5 && ip->protocol == IPPROTO_ICMP &&
	       !(ip->frag_off & bpf_htons(FRAGMENT_OFFSET | FRAGMENT_MORE)) &&
	       ((error->type == ICMP_UNREACHABLE && error->code == ICMP_NEEDS_SMALLER) ||
		error->type == ICMP_TIME_EXCEEDED);
}

/* Whether one more error may go to this sender in this second. Buckets are shared by chance, and races cost little. */
static __always_inline bool may_tell(const struct packet *packet)
{
	__u32 bucket = hash_pair(address_word(&packet->from.address), packet->from.vni) & (TOLD_BUCKETS - 1);
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
	__be32 head = complaint->mtu ? bpf_htonl(ICMP_UNREACHABLE << 24 | ICMP_NEEDS_SMALLER << 16)
				     : bpf_htonl(ICMP_TIME_EXCEEDED << 24);

	ethernet->h_proto = bpf_htons(ETH_P_IP);
	word[0] = bpf_htonl(0x45000000 | total);
	word[1] = bpf_htonl(FRAGMENT_NEVER); /* so that 0 is an identity (RFC 6864 section 4.1) */
	word[2] = bpf_htonl(NEW_TTL << 24 | IPPROTO_ICMP << 16);
	word[3] = unmapped(&complaint->gateway);
	word[4] = unmapped(&packet->from.address);
	ip->check = checksum_fold(sum_words(ip, sizeof(*ip) / 4));
	*(__be32 *)icmp = head;
	icmp->value = bpf_htonl(complaint->mtu);
	icmp->check = checksum_fold(sum_bytes(icmp + 1, end, quote, (__u64)head + icmp->value));
}

static __always_inline void write_icmp_ipv6(struct ethhdr *ethernet, void *end, const struct packet *packet,
					    const struct complaint *complaint, __u32 quote)
{
	struct ipv6hdr *ip = (void *)(ethernet + 1);
	struct icmp_error *icmp = (void *)(ip + 1);
	__u32 *word = (__u32 *)ip;
	__u32 length = sizeof(*icmp) + quote;
	__be32 head = bpf_htonl((complaint->mtu ? ICMPV6_TOO_BIG : ICMPV6_TTL) << 24);
	__u64 sum;

	ethernet->h_proto = bpf_htons(ETH_P_IPV6);
	word[0] = bpf_htonl(0x60000000);
	word[1] = bpf_htonl(length << 16 | IPPROTO_ICMPV6 << 8 | NEW_TTL);
	copy_address((struct address *)&ip->saddr, &complaint->gateway);
	copy_words(&ip->daddr, &packet->from.address);
	*(__be32 *)icmp = head;
	icmp->value = bpf_htonl(complaint->mtu);
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
 * `ethernet` is where the packet's Ethernet header is.
 */
static __always_inline bool is_told(void *ethernet, void *end, const struct packet *packet, struct complaint *complaint)
{
	struct transport transport = {};
	struct network *network;

	if (!packet->length) /* not of IP */
		return false;
	if (find_transport(ethernet, end, packet, &transport) != GO_ON)
		return false;
	if (transport.later || is_icmp_error(ethernet, end, packet, &transport))
		return false;
	network = network_of(&packet->from) ?: network_of(&packet->to);
	if (!network || !may_tell(packet)) /* closed: there is nobody to speak for */
		return false;
	copy_address(&complaint->gateway, &network->gateway);
	return true;
}

#endif
