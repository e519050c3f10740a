/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The transport header of a packet, behind IPv4 options or IPv6 extension headers (RFC 8200 section 4), and the flow
 * hash.
 */
#ifndef DROPLET_TRANSPORT_H
#define DROPLET_TRANSPORT_H

#include "lib/address.h"
#include "lib/verifier.h"
#include "maps.h"
#include "outcomes.h"

#define MAX_EXTENSIONS 8
#define MAX_OFFSET     0x7ff /* a mask above the largest offset that is parsed */

#define EXTENSION_HOP_BY_HOP  0
#define EXTENSION_ROUTING     43
#define EXTENSION_FRAGMENT    44
#define EXTENSION_AUTH	      51
#define EXTENSION_NONE	      59
#define EXTENSION_DESTINATION 60
#define EXTENSION_MOBILITY    135
#define EXTENSION_HIP	      139
#define EXTENSION_SHIM6	      140

struct extension {
	__u8 next;
	__u8 length;   /* beyond the first 8 bytes, in units of 8 bytes; AUTH: in units of 4 bytes */
	__be16 offset; /* FRAGMENT only: the upper 13 bits in units of 8 bytes; the last bit: more fragments follow */
	__be32 identity;
};

static __always_inline bool is_extension(__u32 protocol)
{
	return protocol == EXTENSION_HOP_BY_HOP || protocol == EXTENSION_ROUTING || protocol == EXTENSION_FRAGMENT ||
	       protocol == EXTENSION_AUTH || protocol == EXTENSION_DESTINATION || protocol == EXTENSION_MOBILITY ||
	       protocol == EXTENSION_HIP || protocol == EXTENSION_SHIM6;
}

static __always_inline void take_fragment(const struct extension *extension, struct transport *transport)
{
	transport->fragment = !!(extension->offset & bpf_htons(0xfff9));
	transport->later = !!(extension->offset & bpf_htons(0xfff8));
	transport->identity = extension->identity;
}

/* Skips extension headers; transport->offset and ->protocol are of the first header. */
static __always_inline enum outcome skip_extensions(void *start, void *end, struct transport *transport)
{
	struct extension *extension;

	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		if (!is_extension(transport->protocol))
			return CONTINUE;
		transport->extended = true;
		transport->offset = bounded(transport->offset, MAX_OFFSET);
		extension = start + transport->offset;
		if ((void *)(extension + 1) > end)
			return MALFORMED_INNER;
		if (transport->protocol == EXTENSION_FRAGMENT &&
		    transport->fragment) /* a fragment of a fragment cannot be parsed */
			return MALFORMED_INNER;
		if (transport->protocol == EXTENSION_FRAGMENT)
			take_fragment(extension, transport);
		if (transport->protocol == EXTENSION_FRAGMENT)
			transport->offset += sizeof(*extension);
		else if (transport->protocol == EXTENSION_AUTH)
			transport->offset += sizeof(*extension) + extension->length * 4;
		else
			transport->offset += sizeof(*extension) + extension->length * 8;
		transport->protocol = extension->next;
		if (transport->later)
			return CONTINUE;
		if (transport->offset > MAX_OFFSET)
			return EXTENSION_HEADERS;
	}
	return is_extension(transport->protocol) ? EXTENSION_HEADERS : CONTINUE;
}

static __always_inline enum outcome find_transport_ipv6(void *start, void *end, const struct packet *packet,
							struct transport *transport)
{
	struct ipv6hdr *ip = start + sizeof(struct ethhdr);
	enum outcome outcome = CONTINUE;

	__builtin_memset(transport, 0, sizeof(*transport));
	if ((void *)(ip + 1) > end)
		return MALFORMED_INNER;
	transport->offset = sizeof(struct ethhdr) + sizeof(*ip);
	transport->protocol = ip->nexthdr;
	if (is_extension(transport->protocol))
		outcome = skip_extensions(start, end, transport);
	/* Padding behind the packet contains none of its headers. */
	if (outcome == CONTINUE && transport->offset > packet->length)
		outcome = MALFORMED_INNER;
	transport->parsed = outcome == CONTINUE;
	return outcome;
}

/* `start` is the Ethernet header of a packet that read_packet() accepted. Fills all of `transport`, or sets
 * `parsed` to 0. */
static __always_inline enum outcome find_transport(void *start, void *end, const struct packet *packet,
						   struct transport *transport)
{
	struct iphdr *ip = start + sizeof(struct ethhdr);

	if (INNER_IPV6 && packet->kind == ETH_P_IPV6)
		return find_transport_ipv6(start, end, packet, transport);
	transport->parsed = 0;
	if ((void *)(ip + 1) > end)
		return MALFORMED_INNER;
	transport->offset = sizeof(struct ethhdr) + ip->ihl * 4;
	transport->protocol = ip->protocol;
	transport->identity = ip->id;
	transport->fragment = !!(ip->frag_off & bpf_htons(FRAGMENT_OFFSET | FRAGMENT_MORE));
	transport->later = !!(ip->frag_off & bpf_htons(FRAGMENT_OFFSET));
	transport->extended = 0;
	transport->parsed = 1;
	return CONTINUE;
}

/* The start of TCP, UDP and SCTP headers. */
struct ports {
	__be16 source;
	__be16 destination;
};

static __always_inline void fill_fragment_key(struct fragment_key *key, __u32 slot, const struct packet *packet,
					      const struct transport *transport)
{
	key->slot = slot;
	key->identity = transport->identity;
	key->to = packet->to.address;
	key->protocol = packet->kind == ETH_P_IP ? transport->protocol : 0; /* RFC 791, RFC 8200 section 4.5 */
}

static __always_inline void remember_flow(__u32 slot, const struct packet *packet, const struct transport *transport,
					  __u32 flow)
{
	struct fragment_key key;
	struct fragment fragment = {flow};

	fill_fragment_key(&key, slot, packet, transport);
	fragments.update(&key, &fragment);
}

static __always_inline __u32 recall_flow(__u32 slot, const struct packet *packet, const struct transport *transport,
					 __u32 otherwise)
{
	struct fragment_key key;
	struct fragment *fragment;

	fill_fragment_key(&key, slot, packet, transport);
	fragment = fragments.lookup(&key);
	return fragment ? fragment->flow
			: otherwise; /* open: the first fragment has not arrived, or its entry was evicted */
}

/*
 * The hash of a flow, from which the source port of its tunnel packets is derived (RFC 8926 section 3.3): addresses,
 * protocol and, for TCP, UDP and SCTP, ports. Only the first fragment of a packet has ports; later ones find the hash
 * by the packet's identification, so that a flow keeps one path. A fragment that arrives before the first is hashed
 * without ports. `start` is the Ethernet header.
 */
static __always_inline enum outcome hash_flow(void *start, void *end, __u32 slot, const struct packet *packet,
					      const struct transport *transport, __u32 *flow)
{
	__u64 addresses = (__u64)address_word(&packet->from.address) << 32 | address_word(&packet->to.address);
	struct ports *ports = start + bounded(transport->offset, MAX_OFFSET);

	*flow = hash_pair(addresses, transport->protocol);
	if (transport->later) {
		*flow = recall_flow(slot, packet, transport, *flow);
		return CONTINUE;
	}
	if (transport->protocol == IPPROTO_UDP || transport->protocol == IPPROTO_TCP ||
	    transport->protocol == IPPROTO_SCTP) {
		if ((void *)(ports + 1) > end || transport->offset + sizeof(*ports) > packet->length)
			return MALFORMED_INNER;
		*flow = hash_pair(addresses, (__u64) * (__u32 *)ports << 8 | transport->protocol);
	}
	if (transport->fragment)
		remember_flow(slot, packet, transport, *flow);
	return CONTINUE;
}

#endif
