/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Neighbour discovery for IPv6 (RFC 4861): solicitations are answered as ARP requests are, never flooded. Nobody else
 * than the gateway speaks as a router here, and nobody advertises: those messages of endpoints are dropped.
 */
#ifndef DROPLET_ND_H
#define DROPLET_ND_H

#include "lib/checksum.h"
#include "lib/packet.h"

/* A solicitation or advertisement with the one option of Ethernet addresses. */
struct nd {
	__u8 type;
	__u8 code;
	__u16 check;
	__be32 flags;
	struct in6_addr target;
	__u8 option;
	__u8 option_length; /* in units of 8 bytes */
	__u8 option_mac[6];
} __attribute__((packed, aligned(2)));

#define ND_BARE		 24 /* bytes without the option */
#define MAX_ND_OPTIONS	 8  /* the most that are looked at */
#define ND_ANSWER	 86 /* bytes of an answer, from its Ethernet header on */
#define ND_FIRST	 133
#define ND_LAST		 137
#define ND_SOLICITATION	 135
#define ND_ADVERTISEMENT 136
#define ND_SOURCE_MAC	 1
#define ND_TARGET_MAC	 2
#define ND_ROUTER	 0x80000000
#define ND_SOLICITED	 0x40000000
#define ND_OVERRIDE	 0x20000000
#define ND_HOPS		 255

/* What became of a solicitation's asker, who has no address yet during duplicate address detection (RFC 4862). */
struct solicitation {
	struct address target KEY;
	bool detects; /* duplicates: asked from :: */
};

/*
 * A first fragment that ends before ICMPv6 says what it is (RFC 7112): it could be anything, with the next one. What
 * stands in the frame behind the packet says nothing.
 */
static __always_inline bool hides_nd(void *start, void *end, const struct packet *packet,
				     const struct transport *transport)
{
	__u8 *type = start + bounded(transport->at, FAR);

	if (transport->protocol != IPPROTO_ICMPV6 || !transport->fragment || transport->later)
		return false;
	if ((void *)(type + 1) > end)
		return true;
	return transport->at >= packet->length;
}

/* Whether a packet is of neighbour discovery, wherever it stands and whoever it goes to. */
static __always_inline bool is_nd(void *start, void *end, const struct transport *transport)
{
	__u8 *type = start + bounded(transport->at, FAR);

	if (transport->protocol != IPPROTO_ICMPV6 || transport->later || (void *)(type + 1) > end)
		return false;
	return *type >= ND_FIRST && *type <= ND_LAST;
}

static __always_inline bool is_advertisement(void *start, void *end, const struct transport *transport)
{
	__u8 *type = start + bounded(transport->at, FAR);

	return (void *)(type + 1) <= end && *type == ND_ADVERTISEMENT && !transport->extended;
}

/* ff02::1:ff00:0/104 (RFC 4291 section 2.7.1). */
static __always_inline bool is_solicited_node(const void *ipv6)
{
	const __u32 *word = ipv6;

	return word[0] == bpf_htonl(0xff020000) && !word[1] && word[2] == bpf_htonl(1) && *((__u8 *)ipv6 + 12) == 0xff;
}

struct nd_option {
	__u8 type;
	__u8 length; /* in units of 8 bytes */
};

/* Options fill the packet, each has a length, and one who has no address yet gives none. `start`: Ethernet header. */
static __always_inline enum outcome check_nd_options(void *start, void *end, const struct packet *packet,
						     const struct solicitation *asked)
{
	__u32 at = sizeof(struct ethhdr) + sizeof(struct ipv6hdr) + ND_BARE;
	struct nd_option *option;

	for (int i = 0; i < MAX_ND_OPTIONS && at != packet->length; i++) {
		option = start + bounded(at, FAR);
		if (at > FAR || (void *)(option + 1) > end || !option->length)
			return MALFORMED_ND;
		if (asked->detects && option->type == ND_SOURCE_MAC)
			return MALFORMED_ND;
		at += option->length * 8;
	}
	return at == packet->length ? GO_ON : MALFORMED_ND;
}

/* Over addresses and message; `ip` is followed by at least ND_BARE bytes. */
static __always_inline bool is_nd_summed(struct ipv6hdr *ip, void *end, const struct packet *packet)
{
	__u32 length = packet->length - sizeof(struct ethhdr) - sizeof(*ip);

	return sum_fold(sum_bytes(ip + 1, end, length, sum_pseudo_ipv6(ip, length, IPPROTO_ICMPV6))) == 0xffff;
}

/* Holds a solicitation to RFC 4861 section 7.1.1. */
static __always_inline enum outcome check_nd(struct ethhdr *ethernet, void *end, const struct packet *packet,
					     const struct transport *transport, struct solicitation *asked)
{
	struct ipv6hdr *ip = (void *)(ethernet + 1);
	struct nd *nd = (void *)(ip + 1);

	if (transport->extended)
		return ND_TYPE;
	if ((void *)nd + sizeof(nd->type) > end)
		return MALFORMED_ND;
	if (nd->type != ND_SOLICITATION)
		return ND_TYPE;
	if ((void *)nd + ND_BARE > end || packet->length < sizeof(*ethernet) + sizeof(*ip) + ND_BARE)
		return MALFORMED_ND;
	if (packet->ttl != ND_HOPS || nd->code || is_multicast_ipv6(&nd->target) || !is_nd_summed(ip, end, packet))
		return MALFORMED_ND;
	asked->detects = is_unspecified(&ip->saddr);
	if (asked->detects && !is_solicited_node(&ip->daddr))
		return MALFORMED_ND;
	copy_address(&asked->target, &nd->target);
	return check_nd_options(ethernet, end, packet, asked);
}

/*
 * Turns a solicitation into the answer "target is at mac" to the one who asked, or to all nodes when that one has no
 * address yet. The frame becomes as long as the answer is: pointers are void afterwards. MALFORMED_ND for no room.
 */
static __always_inline enum outcome answer_nd(context *ctx, __u32 headers, const struct packet *packet,
					      const struct solicitation *asked, const __u8 *answer, enum outcome done)
{
	__u32 all_nodes[4] = {bpf_htonl(0xff020000), 0, 0, bpf_htonl(1)};
	__u8 all_macs[6] = {0x33, 0x33, 0, 0, 0, 1}, mac[6];
	struct ethhdr *ethernet;
	struct ipv6hdr *ip;
	struct nd *nd;

	copy_mac(mac, answer);
	if (set_length(ctx, headers + ND_ANSWER))
		return MALFORMED_ND;
	ethernet = frame_start(ctx) + bounded(headers, MAX_HEADERS);
	ip = (void *)(ethernet + 1);
	nd = (void *)(ip + 1);
	if ((void *)(nd + 1) > frame_end(ctx))
		return MALFORMED_ND;
	copy_mac(ethernet->h_dest, asked->detects ? all_macs : ethernet->h_source);
	copy_mac(ethernet->h_source, mac);
	ip->payload_len = bpf_htons(sizeof(*nd));
	copy_address((struct address *)&ip->saddr, &asked->target);
	if (asked->detects)
		copy_address((struct address *)&ip->daddr, all_nodes);
	else
		copy_words(&ip->daddr, &packet->from.address);
	nd->type = ND_ADVERTISEMENT;
	nd->code = 0;
	nd->check = 0;
	nd->flags = bpf_htonl((is_gateway(mac) ? ND_ROUTER : 0) | (asked->detects ? 0 : ND_SOLICITED) | ND_OVERRIDE);
	nd->option = ND_TARGET_MAC;
	nd->option_length = 1;
	copy_mac(nd->option_mac, mac);
	nd->check = checksum_fold(sum_pseudo_ipv6(ip, sizeof(*nd), IPPROTO_ICMPV6) + sum_words(nd, sizeof(*nd) / 4));
	return done;
}

#endif
