/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A flow's hash, from which the source port of its tunnel packets comes (RFC 8926 section 3.3): addresses, protocol
 * and, for TCP, UDP and SCTP, ports. The first fragment of a packet has them; the others find its hash by the packet's
 * identity, so that all that belongs to a flow takes one way. A fragment that overtook the first goes without ports.
 */
#ifndef DROPLET_FLOW_H
#define DROPLET_FLOW_H

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
