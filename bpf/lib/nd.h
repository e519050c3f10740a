/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Neighbour discovery for IPv6 (RFC 4861): solicitations are handled as ARP requests are, never flooded. Endpoints may
 * not advertise addresses or act as routers; those messages are dropped.
 */
#ifndef DROPLET_ND_H
#define DROPLET_ND_H

#include "lib/checksum.h"
#include "lib/packet.h"

/* A solicitation or advertisement with an Ethernet address option. */
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
#define MAX_ND_OPTIONS	 8  /* at most as many are parsed */
#define ND_ANSWER	 86 /* length of an answer, from the Ethernet header */
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

/* A parsed solicitation. */
struct solicitation {
	struct address target KEY;
	bool dad; /* duplicate address detection (RFC 4862): the source is :: */
};

/*
 * Whether a first fragment ends before the type of ICMPv6 (RFC 7112), so that it may be neighbour discovery. Padding
 * behind the packet does not count.
 */
static __always_inline bool may_hide_nd(void *start, void *end, const struct packet *packet,
					const struct transport *transport)
{
	__u8 *type = start + bounded(transport->offset, MAX_OFFSET);

	if (transport->protocol != IPPROTO_ICMPV6 || !transport->fragment || transport->later)
		return false;
	if ((void *)(type + 1) > end)
		return true;
	return transport->offset >= packet->length;
}

/* Whether a packet is neighbour discovery, to any destination and behind any headers. */
static __always_inline bool is_nd(void *start, void *end, const struct transport *transport)
{
	__u8 *type = start + bounded(transport->offset, MAX_OFFSET);

	if (transport->protocol != IPPROTO_ICMPV6 || transport->later || (void *)(type + 1) > end)
		return false;
	return *type >= ND_FIRST && *type <= ND_LAST;
}

static __always_inline bool is_advertisement(void *start, void *end, const struct transport *transport)
{
	__u8 *type = start + bounded(transport->offset, MAX_OFFSET);

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

/*
 * The options must fill the packet, none may be empty, and DAD has no source address option. `start`: Ethernet header.
 */
static __always_inline enum outcome check_nd_options(void *start, void *end, const struct packet *packet,
						     const struct solicitation *requested)
{
	__u32 at = sizeof(struct ethhdr) + sizeof(struct ipv6hdr) + ND_BARE;
	struct nd_option *option;

	for (int i = 0; i < MAX_ND_OPTIONS && at != packet->length; i++) {
		option = start + bounded(at, MAX_OFFSET);
		if (at > MAX_OFFSET || (void *)(option + 1) > end || !option->length)
			return MALFORMED_ND;
		if (requested->dad && option->type == ND_SOURCE_MAC)
			return MALFORMED_ND;
		at += option->length * 8;
	}
	return at == packet->length ? CONTINUE : MALFORMED_ND;
}

/* Whether the checksum is right; `ip` is followed by at least ND_BARE bytes. */
static __always_inline bool is_nd_summed(struct ipv6hdr *ip, void *end, const struct packet *packet)
{
	__u32 length = packet->length - sizeof(struct ethhdr) - sizeof(*ip);

	return sum_fold(sum_bytes(ip + 1, end, length, sum_pseudo_ipv6(ip, length, IPPROTO_ICMPV6))) == 0xffff;
}

/* Validates a solicitation by RFC 4861 section 7.1.1. */
static __always_inline enum outcome check_nd(struct ethhdr *ethernet, void *end, const struct packet *packet,
					     const struct transport *transport, struct solicitation *requested)
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
	requested->dad = is_unspecified(&ip->saddr);
	if (requested->dad && !is_solicited_node(&ip->daddr))
		return MALFORMED_ND;
	copy_address(&requested->target, &nd->target);
	return check_nd_options(ethernet, end, packet, requested);
}

/*
 * Turns a solicitation into the advertisement "target is at mac", to its sender, or to all nodes for DAD. Sets the
 * length of the frame and invalidates all pointers into it. Returns `done`, or MALFORMED_ND if there is no space.
 */
static __always_inline enum outcome answer_nd(context *ctx, __u32 headers, const struct packet *packet,
					      const struct solicitation *requested, const __u8 *answer,
					      enum outcome done)
{
	__u32 all_nodes[4] = {bpf_htonl(0xff020000), 0, 0, bpf_htonl(1)};
	__u8 all_macs[6] = {0x33, 0x33, 0, 0, 0, 1}, mac[6];
	struct ethhdr *ethernet;
	struct ipv6hdr *ip;
	struct nd *nd;

	copy_mac(mac, answer);
	if (set_frame_length(ctx, headers + ND_ANSWER))
		return MALFORMED_ND;
	ethernet = frame_start(ctx) + bounded(headers, MAX_HEADERS);
	ip = (void *)(ethernet + 1);
	nd = (void *)(ip + 1);
	if ((void *)(nd + 1) > frame_end(ctx))
		return MALFORMED_ND;
	copy_mac(ethernet->h_dest, requested->dad ? all_macs : ethernet->h_source);
	copy_mac(ethernet->h_source, mac);
	ip->payload_len = bpf_htons(sizeof(*nd));
	copy_address((struct address *)&ip->saddr, &requested->target);
	if (requested->dad)
		copy_address((struct address *)&ip->daddr, all_nodes);
	else
		copy_words(&ip->daddr, &packet->from.address);
	nd->type = ND_ADVERTISEMENT;
	nd->code = 0;
	nd->check = 0;
	nd->flags =
		bpf_htonl((is_gateway_mac(mac) ? ND_ROUTER : 0) | (requested->dad ? 0 : ND_SOLICITED) | ND_OVERRIDE);
	nd->option = ND_TARGET_MAC;
	nd->option_length = 1;
	copy_mac(nd->option_mac, mac);
	nd->check = checksum_fold(sum_pseudo_ipv6(ip, sizeof(*nd), IPPROTO_ICMPV6) + sum_words(nd, sizeof(*nd) / 4));
	return done;
}

#endif
