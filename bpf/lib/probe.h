/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Path probes between droplets: Geneve control packets with our probe option, which the other droplet's transit XDP
 * reflects at full length. The answer goes to the source port of the request: the agent's socket.
 */
#ifndef DROPLET_PROBE_H
#define DROPLET_PROBE_H

#include "lib/encap.h"

/* Swaps two words under the checksum, which stays valid. */
static __always_inline void swap_ports(struct udphdr *udp)
{
	__be16 source = udp->source;

	udp->source = udp->dest;
	udp->dest = source;
}

static __always_inline struct udphdr *reverse_ip_header(void *ip, const struct local_droplet *local,
							const struct tunnel *tunnel)
{
	struct iphdr *ipv4 = ip;
	struct ipv6hdr *ipv6 = ip;

	if (is_over_ipv6(local)) {
		copy_address((struct address *)&ipv6->saddr, &local->address);
		copy_address((struct address *)&ipv6->daddr, &tunnel->peer.address);
		ipv6->hop_limit = NEW_TTL;
		return (void *)(ipv6 + 1);
	}
	ipv4->saddr = unmapped(&local->address);
	ipv4->daddr = unmapped(&tunnel->peer.address);
	set_ttl(ipv4, NEW_TTL);
	return (void *)(ipv4 + 1);
}

static __always_inline enum outcome reflect_probe(context *ctx, const struct local_droplet *local,
						  const struct frame_state *state)
{
	const struct tunnel *tunnel = &state->tunnel;
	struct ethhdr *ethernet = frame_start(ctx);
	bool tagged = (void *)(ethernet + 1) <= frame_end(ctx) && is_tagged(ethernet);
	void *ip = (void *)(ethernet + 1) + (tagged ? sizeof(struct vlan_tag) : 0);
	struct probe *probe = frame_start(ctx) + bounded(tunnel->probe, MAX_HEADERS);
	struct udphdr *udp;
	__u16 *kind = (__u16 *)&probe->kind, before;
	__u8 mac[6];

	if ((void *)(probe + 1) > frame_end(ctx) ||
	    ip + sizeof(struct ipv6hdr) + sizeof(struct udphdr) > frame_end(ctx))
		return GENEVE_CONTROL;
	if (is_tunnel_port(tunnel->source_port)) /* the answer would be parsed as a tunnel packet */
		return GENEVE_CONTROL;
	copy_mac(mac, ethernet->h_dest);
	copy_mac(ethernet->h_dest, ethernet->h_source);
	copy_mac(ethernet->h_source, mac);
	udp = reverse_ip_header(ip, local, tunnel);
	swap_ports(udp);
	before = *kind;
	probe->kind = PROBE_REPLY;
	if (udp->check && !is_unfinished(udp, &state->outer, bpf_ntohs(udp->len)))
		udp->check = checksum_replace(udp->check, before, *kind) ?: 0xffff;
	return PROBE_REFLECTED;
}

#endif
