/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Parses the outer headers of frames from the underlay, up to the inner frame. PASSED if the frame is not a tunnel
 * packet to a droplet of this host; the host's stack never sees those that are.
 *
 * Tunnel packets with IPv4 options, IPv6 extension headers or fragments are dropped. Only a first fragment shows that
 * it belongs to a tunnel packet; the others pass to the host's stack, which cannot reassemble them.
 */
#ifndef DROPLET_OUTER_H
#define DROPLET_OUTER_H

#include "lib/checksum.h"
#include "lib/geneve.h"
#include "lib/packet.h"
#include "lib/transport.h"
#include "lib/vxlan.h"

/*
 * The local droplet with this address on this interface and VLAN, NULL if there is none. `*position`: its index.
 */
static __always_inline struct local_droplet *find_local(__u32 rx_ifindex, __be16 vlan, const struct address *address,
							__u16 *position)
{
	struct local_droplet *local;

	for (__u32 i = 0; i < MAX_LOCAL_DROPLETS; i++) {
		__u32 index = i;

		local = local_droplets.lookup(&index);
		if (!local)
			return 0;
		if (local->interface && local->rx_ifindex == rx_ifindex && local->vlan == vlan &&
		    same_address(&local->address, address)) {
			*position = i;
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

/* `at`: offset of the IPv4 header. */
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
	outer->ip_payload = total - sizeof(*ip);
	tunnel->tos = ip->tos;
	tunnel->ttl = ip->ttl;
	return CONTINUE;
}

/* The outcome for an IPv6 packet with extension headers; `at`: offset of the first one. */
static __always_inline enum outcome read_extended(void *start, void *end, __u32 at, __u8 next)
{
	struct transport transport = {.offset = at, .protocol = next};

	if (skip_extensions(start, end, &transport) != CONTINUE || transport.later ||
	    transport.protocol != IPPROTO_UDP || !is_tunnel(start + bounded(transport.offset, MAX_OFFSET), end))
		return PASSED;
	return transport.fragment ? OUTER_FRAGMENT : OUTER_OPTIONS;
}

/* `at`: offset of the IPv6 header. */
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
	outer->ip_payload = payload;
	tunnel->tos = traffic_class(ip);
	tunnel->ttl = ip->hop_limit;
	tunnel->flags = TUNNEL_NO_CHECKSUM;
	return CONTINUE;
}

struct vlan_tag {
	__be16 control; /* the VLAN's id in the lower 12 bits */
	__be16 ethertype;
};

/* Also if the tag has only a priority (VLAN 0), which counts as untagged. */
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

	outer->vlan = bpf_htons(removed_tag(ctx) & VLAN_ID);
	if ((void *)(ethernet + 1) > frame_end(ctx))
		return PASSED;
	kind = ethertype(ethernet);
	if (is_tagged(ethernet) && removed_tag(ctx)) /* two tags */
		return PASSED;
	if (is_tagged(ethernet)) { /* also without VLAN_TAGS: it may be only a priority */
		if ((void *)(tag + 1) > frame_end(ctx))
			return PASSED;
		outer->vlan = tag->control & bpf_htons(VLAN_ID);
		kind = tag->ethertype;
		at += sizeof(*tag);
	}
	if (!VLAN_TAGS && outer->vlan)
		return PASSED;
	if (OUTER_IPV4 && kind == bpf_htons(ETH_P_IP))
		return read_outer_ipv4(ctx, at, outer, tunnel);
	if (OUTER_IPV6 && kind == bpf_htons(ETH_P_IPV6))
		return read_outer_ipv6(ctx, at, outer, tunnel);
	return PASSED;
}

/*
 * Whether a device is to complete a UDP checksum: the sum of the pseudo-header is in its place, in a packet of this
 * machine. `length` is that of the datagram.
 */
static __always_inline bool is_unfinished(const struct udphdr *udp, const struct outer *outer, __u32 length)
{
	return HAS_GSO && udp->check == sum_fold(outer->pseudo + bpf_htonl(length));
}

/*
 * Whether the UDP checksum of a tunnel packet is right, or not in it yet: unfinished, or a GSO packet, which has one
 * for each segment. Sets outer->unsure if only the inner packet can show it. May invalidate all pointers into the
 * frame.
 */
static __always_inline bool has_valid_checksum(context *ctx, struct udphdr *udp, struct outer *outer, __u32 length)
{
	__u64 pseudo = outer->pseudo + bpf_htonl(length);
	bool valid;

	if (HAS_GSO && (segment_bytes(ctx) || is_unfinished(udp, outer, length)))
		return true;
	if (read_whole(ctx))
		return false;
	udp = frame_start(ctx) + bounded(outer->udp, FIRST_HEADERS);
	valid = sum_fold(sum_frame(udp, frame_end(ctx), length, pseudo)) == 0xffff;
	outer->unsure = HAS_GSO && !valid;
	return valid || HAS_GSO;
}

static __always_inline enum outcome parse_udp(context *ctx, struct outer *outer, struct tunnel *tunnel,
					      struct options *options)
{
	void *start = frame_start(ctx), *end = frame_end(ctx);
	__u32 at = bounded(outer->udp, FIRST_HEADERS), length, payload;
	struct udphdr *udp = start + at;

	if ((void *)(udp + 1) > end)
		return MALFORMED_OUTER;
	length = bpf_ntohs(udp->len);
	if (length != outer->ip_payload || length < sizeof(*udp) + sizeof(struct geneve))
		return MALFORMED_OUTER;
	outer->summed = udp->check != 0;
	outer->unsure = 0;
	if (udp->check) {
		if (!has_valid_checksum(ctx, udp, outer, length))
			return OUTER_CHECKSUM;
		tunnel->flags = 0;
		start = frame_start(ctx);
		end = frame_end(ctx);
		udp = start + at;
		if ((void *)(udp + 1) > end)
			return MALFORMED_OUTER;
	}
	copy_address(&tunnel->origin, &tunnel->peer.address);
	tunnel->source_port = udp->source;
	payload = length - sizeof(*udp) - sizeof(struct geneve);
	if (VXLAN_PORT && udp->dest == bpf_htons(VXLAN_PORT))
		return parse_vxlan(start, end, at + sizeof(*udp), payload, tunnel);
	return parse_geneve(start, end, at + sizeof(*udp), payload, tunnel, options);
}

/* Sets `*local` to the local droplet that received the packet; then the outcome is CONTINUE or a drop. */
static __always_inline enum outcome parse_outer(context *ctx, struct frame_state *state, struct local_droplet **local)
{
	struct tunnel *tunnel = &state->tunnel;
	struct outer *outer = &state->outer;
	enum outcome outcome = unknown_scalar(read_outer(ctx, outer, tunnel));

	if (outcome == PASSED)
		return PASSED;
	*local = find_local(ingress_ifindex(ctx), outer->vlan, &outer->to, &state->local);
	if (!*local) /* open: not ours, pass it to the host's stack */
		return PASSED;
	return outcome == CONTINUE ? parse_udp(ctx, outer, tunnel, &state->options) : outcome;
}

#endif
