/* SPDX-License-Identifier: GPL-2.0-only */
/* Where a packet's transport begins: behind IPv4's options, or behind IPv6's extension headers (RFC 8200 section 4). */
#ifndef DROPLET_TRANSPORT_H
#define DROPLET_TRANSPORT_H

#include "lib/address.h"
#include "lib/verifier.h"
#include "maps.h"
#include "outcomes.h"

#define MAX_EXTENSIONS 8
#define FAR	       0x7ff /* a mask above the longest way that is looked at */

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
	__u8 length;   /* beyond the first 8 bytes, in units of 8 bytes; of AUTH beyond the first 8, in units of 4 */
	__be16 offset; /* of FRAGMENT: in units of 8 bytes in the upper 13 bits, more follow in the last bit */
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

/* `at` is where the first header begins, of which `transport->protocol` is the number. */
static __always_inline enum outcome skip_extensions(void *start, void *end, struct transport *transport)
{
	struct extension *extension;

	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		if (!is_extension(transport->protocol))
			return GO_ON;
		transport->extended = true;
		transport->at = bounded(transport->at, FAR);
		extension = start + transport->at;
		if ((void *)(extension + 1) > end)
			return MALFORMED_INNER;
		if (transport->protocol == EXTENSION_FRAGMENT && transport->fragment) /* what it holds, nobody sees */
			return MALFORMED_INNER;
		if (transport->protocol == EXTENSION_FRAGMENT)
			take_fragment(extension, transport);
		if (transport->protocol == EXTENSION_FRAGMENT)
			transport->at += sizeof(*extension);
		else if (transport->protocol == EXTENSION_AUTH)
			transport->at += sizeof(*extension) + extension->length * 4;
		else
			transport->at += sizeof(*extension) + extension->length * 8;
		transport->protocol = extension->next;
		if (transport->later)
			return GO_ON;
		if (transport->at > FAR)
			return EXTENSION_HEADERS;
	}
	return is_extension(transport->protocol) ? EXTENSION_HEADERS : GO_ON;
}

/*
 * `start` is an Ethernet header, `packet` what read_packet() found behind it. Fills all of `transport`, but for
 * MALFORMED_INNER.
 */
static __always_inline enum outcome find_transport(void *start, void *end, const struct packet *packet,
						   struct transport *transport)
{
	struct iphdr *ip = start + sizeof(struct ethhdr);
	struct ipv6hdr *ipv6 = (void *)ip;
	enum outcome outcome;

	if (INNER_IPV6 && packet->kind == ETH_P_IPV6) {
		if ((void *)(ipv6 + 1) > end)
			return MALFORMED_INNER;
		__builtin_memset(transport, 0, sizeof(*transport));
		transport->at = sizeof(struct ethhdr) + sizeof(*ipv6);
		transport->protocol = ipv6->nexthdr;
		if (!is_extension(transport->protocol))
			return GO_ON;
		outcome = skip_extensions(start, end, transport);
		/* What stands in the frame behind the packet is none of its headers. */
		return outcome == GO_ON && transport->at > packet->length ? MALFORMED_INNER : outcome;
	}
	if ((void *)(ip + 1) > end)
		return MALFORMED_INNER;
	transport->at = sizeof(struct ethhdr) + ip->ihl * 4;
	transport->protocol = ip->protocol;
	transport->identity = ip->id;
	transport->fragment = !!(ip->frag_off & bpf_htons(FRAGMENT_OFFSET | FRAGMENT_MORE));
	transport->later = !!(ip->frag_off & bpf_htons(FRAGMENT_OFFSET));
	transport->extended = 0;
	return GO_ON;
}

/*
 * A flow's hash, from which the source port of its tunnel packets comes (RFC 8926 section 3.3): addresses, protocol
 * and, for TCP, UDP and SCTP, ports. The first fragment of a packet has them; the others find its hash by the packet's
 * identity, so that all that belongs to a flow takes one way. A fragment that overtook the first goes without ports.
 */
/* The start of TCP, UDP and SCTP alike. */
struct ports {
	__be16 source;
	__be16 destination;
};

static __always_inline void key_of_fragment(struct fragment_key *key, __u32 slot, const struct packet *packet,
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

	key_of_fragment(&key, slot, packet, transport);
	fragments.update(&key, &fragment);
}

static __always_inline __u32 recall_flow(__u32 slot, const struct packet *packet, const struct transport *transport,
					 __u32 otherwise)
{
	struct fragment_key key;
	struct fragment *fragment;

	key_of_fragment(&key, slot, packet, transport);
	fragment = fragments.lookup(&key);
	return fragment ? fragment->flow : otherwise; /* open: it overtook the first, or that is forgotten */
}

/* `start` is where the Ethernet header begins. */
static __always_inline enum outcome hash_flow(void *start, void *end, __u32 slot, const struct packet *packet,
					      const struct transport *transport, __u32 *flow)
{
	__u64 addresses = (__u64)address_word(&packet->from.address) << 32 | address_word(&packet->to.address);
	struct ports *ports = start + bounded(transport->at, FAR);

	*flow = hash_pair(addresses, transport->protocol);
	if (transport->later) {
		*flow = recall_flow(slot, packet, transport, *flow);
		return GO_ON;
	}
	if (transport->protocol == IPPROTO_UDP || transport->protocol == IPPROTO_TCP ||
	    transport->protocol == IPPROTO_SCTP) {
		if ((void *)(ports + 1) > end || transport->at + sizeof(*ports) > packet->length)
			return MALFORMED_INNER;
		*flow = hash_pair(addresses, (__u64) * (__u32 *)ports << 8 | transport->protocol);
	}
	if (transport->fragment)
		remember_flow(slot, packet, transport, *flow);
	return GO_ON;
}

#endif
