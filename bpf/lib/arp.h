/* SPDX-License-Identifier: GPL-2.0-only */
/* ARP for Ethernet and IPv4 (RFC 826): requests are answered or forwarded to one droplet, never flooded. */
#ifndef DROPLET_ARP_H
#define DROPLET_ARP_H

#include "lib/address.h"
#include "outcomes.h"

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[6];
	__be32 sender;
	__u8 target_mac[6];
	__be32 target;
} __attribute__((packed, aligned(2)));

#define ARP_ETHERNET 1
#define ARP_REQUEST  1
#define ARP_REPLY    2

static __always_inline enum outcome check_arp(void *start, void *end, __u32 length)
{
	struct arp *arp = start + sizeof(struct ethhdr);

	if ((void *)(arp + 1) > end || length < sizeof(struct ethhdr) + sizeof(*arp))
		return MALFORMED_ARP;
	if (arp->hardware != bpf_htons(ARP_ETHERNET) || arp->protocol != bpf_htons(ETH_P_IP) ||
	    arp->hardware_length != 6 || arp->protocol_length != 4)
		return MALFORMED_ARP;
	return CONTINUE;
}

/* Turns a request into the reply "target is at mac". */
static __always_inline void answer_arp(struct ethhdr *ethernet, struct arp *arp, const __u8 *mac)
{
	__be32 target = arp->target;

	copy_mac(ethernet->h_dest, arp->sender_mac);
	copy_mac(ethernet->h_source, mac);
	arp->operation = bpf_htons(ARP_REPLY);
	copy_mac(arp->target_mac, arp->sender_mac);
	arp->target = arp->sender;
	copy_mac(arp->sender_mac, mac);
	arp->sender = target;
}

#endif
