/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reads the outer headers of what comes in from the substrate, up to the inner frame. PASSED when the packet is not a
 * tunnel's to a droplet of this host; what is, the host's stack never sees.
 *
 * Fragments, IPv4 options and IPv6 extension headers have no place on tunnel packets: those are dropped. Only the first
 * fragment shows that it is a tunnel's; the others pass, to where they are never reassembled.
 */
#ifndef DROPLET_OUTER_H
#define DROPLET_OUTER_H

#include "lib/checksum.h"
#include "lib/geneve.h"
#include "lib/packet.h"
#include "lib/transport.h"
#include "lib/vxlan.h"

/*
 * The droplet of this host that frames with this address come in for, NULL when it has none. `*place`: its index.
 */
static __always_inline struct local_droplet *find_local(__u32 arrival, __be16 vlan, const struct address *address,
							__u16 *place)
{
	struct local_droplet *local;

	for (__u32 i = 0; i < MAX_LOCAL_DROPLETS; i++) {
		__u32 index = i;

		local = local_droplets.lookup(&index);
		if (!local)
			return 0;
		if (local->interface && local->arrives == arrival && local->vlan == vlan &&
		    same_address(&local->address, address)) {
			*place = i;
			return local;
		}
	}
	return 0;
}

static __always_inline bool is_tunnel_port(__be16 port)
{
	return port == bpf_htons(GENEVE_PORT) || (VXLAN_PORT && port == bpf_htons(VXLAN_PORT));
}

static __always_inline bool is_tunnel(void *udp, void *end)
{
	return udp + sizeof(struct udphdr) <= end && is_tunnel_port(((struct udphdr *)udp)->dest);
}

/* `at` is where the IPv4 header begins. */
static __always_inline enum outcome read_outer_ipv4(context *ctx, __u32 at, struct outer *outer, struct tunnel *tunnel)
{
	void *end = frame_end(ctx);
	struct iphdr *ip = frame_start(ctx) + at;
	__u32 total;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->protocol != IPPROTO_UDP ||
	    ip->frag_off & bpf_htons(FRAGMENT_OFFSET) || ip->ihl < 5 || !is_tunnel((void *)ip + ip->ihl * 4, end))
		return PASSED;
	set_address(&outer->to, ip->daddr);
	if (ip->frag_off & bpf_htons(FRAGMENT_MORE))
		return OUTER_FRAGMENT;
	if (ip->ihl != 5)
		return OUTER_OPTIONS;
	total = bpf_ntohs(ip->tot_len);
	if (total < sizeof(*ip) || at + total > frame_length(ctx))
		return MALFORMED_OUTER;
	if (sum_fold(sum_words(ip, sizeof(*ip) / 4)) != 0xffff)
		return OUTER_CHECKSUM;
	set_address(&tunnel->peer.address, ip->saddr);
	outer->pseudo = (__u64)ip->saddr + ip->daddr + bpf_htonl(IPPROTO_UDP);
	outer->udp = at + sizeof(*ip);
	outer->room = total - sizeof(*ip);
	tunnel->tos = ip->tos;
	tunnel->ttl = ip->ttl;
	return GO_ON;
}

/* What an IPv6 packet with extension headers is that ends in a tunnel's UDP header; `at`: where the first one begins.
 */
static __always_inline enum outcome read_extended(void *start, void *end, __u32 at, __u8 next)
{
	struct transport transport = {.at = at, .protocol = next};

	if (skip_extensions(start, end, &transport) != GO_ON || transport.later || transport.protocol != IPPROTO_UDP ||
	    !is_tunnel(start + bounded(transport.at, FAR), end))
		return PASSED;
	return transport.fragment ? OUTER_FRAGMENT : OUTER_OPTIONS;
}

/* `at` is where the IPv6 header begins. */
static __always_inline enum outcome read_outer_ipv6(context *ctx, __u32 at, struct outer *outer, struct tunnel *tunnel)
{
	void *start = frame_start(ctx), *end = frame_end(ctx);
	struct ipv6hdr *ip = start + at;
	__u32 payload;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return PASSED;
	copy_address(&outer->to, &ip->daddr);
	if (is_extension(ip->nexthdr))
		return read_extended(start, end, at + sizeof(*ip), ip->nexthdr);
	if (ip->nexthdr != IPPROTO_UDP || !is_tunnel(ip + 1, end))
		return PASSED;
	payload = bpf_ntohs(ip->payload_len);
	if (at + sizeof(*ip) + payload > frame_length(ctx))
		return MALFORMED_OUTER;
	copy_address(&tunnel->peer.address, &ip->saddr);
	outer->pseudo = sum_pseudo_ipv6(ip, 0, IPPROTO_UDP);
	outer->udp = at + sizeof(*ip);
	outer->room = payload;
	tunnel->tos = traffic_class(ip);
	tunnel->ttl = ip->hop_limit;
	tunnel->flags = TUNNEL_UNSUMMED;
	return GO_ON;
}

struct vlan_tag {
	__be16 control; /* the VLAN's id in the lower 12 bits */
	__be16 ethertype;
};

/* Also by a priority alone, as VLAN 0, which is none. */
static __always_inline bool is_tagged(const struct ethhdr *ethernet)
{
	return ethertype(ethernet) == bpf_htons(ETH_P_8021Q);
}

static __always_inline enum outcome read_outer(context *ctx, struct outer *outer, struct tunnel *tunnel)
{
	struct ethhdr *ethernet = frame_start(ctx);
	struct vlan_tag *tag = (void *)(ethernet + 1);
	__u32 at = sizeof(*ethernet);
	__be16 kind;

	outer->vlan = 0;
	if ((void *)(ethernet + 1) > frame_end(ctx))
		return PASSED;
	kind = ethertype(ethernet);
	if (is_tagged(ethernet)) { /* without VLANs here too: a priority alone is none */
		if ((void *)(tag + 1) > frame_end(ctx))
			return PASSED;
		outer->vlan = tag->control & bpf_htons(0x0fff);
		if (!VLAN_TAGS && outer->vlan)
			return PASSED;
		kind = tag->ethertype;
		at += sizeof(*tag);
	}
	if (OUTER_IPV4 && kind == bpf_htons(ETH_P_IP))
		return read_outer_ipv4(ctx, at, outer, tunnel);
	if (OUTER_IPV6 && kind == bpf_htons(ETH_P_IPV6))
		return read_outer_ipv6(ctx, at, outer, tunnel);
	return PASSED;
}

static __always_inline enum outcome parse_udp(context *ctx, const struct outer *outer, struct tunnel *tunnel,
					      struct options *options)
{
	void *start = frame_start(ctx), *end = frame_end(ctx);
	__u32 at = bounded(outer->udp, FIRST_HEADERS), length, payload;
	struct udphdr *udp = start + at;

	if ((void *)(udp + 1) > end)
		return MALFORMED_OUTER;
	length = bpf_ntohs(udp->len);
	if (length != outer->room || length < sizeof(*udp) + sizeof(struct geneve))
		return MALFORMED_OUTER;
	if (udp->check) {
		if (sum_fold(sum_frame(udp, end, length, outer->pseudo + bpf_htonl(length))) != 0xffff)
			return OUTER_CHECKSUM;
		tunnel->flags = 0;
	}
	copy_address(&tunnel->origin, &tunnel->peer.address);
	tunnel->source_port = udp->source;
	payload = length - sizeof(*udp) - sizeof(struct geneve);
	if (VXLAN_PORT && udp->dest == bpf_htons(VXLAN_PORT))
		return parse_vxlan(start, end, at + sizeof(*udp), payload, tunnel);
	return parse_geneve(start, end, at + sizeof(*udp), payload, tunnel, options);
}

/* `*local` is the droplet that the packet came in for. Once that is known, an outcome is a drop or GO_ON. */
static __always_inline enum outcome parse_outer(context *ctx, struct frame_state *state, struct local_droplet **local)
{
	struct tunnel *tunnel = &state->tunnel;
	struct outer *outer = &state->outer;
	enum outcome outcome = forgotten(read_outer(ctx, outer, tunnel));

	if (outcome == PASSED)
		return PASSED;
	*local = find_local(arrived_on(ctx), outer->vlan, &outer->to, &state->local);
	if (!*local) /* open: what is not for us is the host's stack's */
		return PASSED;
	return outcome == GO_ON ? parse_udp(ctx, outer, tunnel, &state->options) : outcome;
}

#endif
