/* SPDX-License-Identifier: GPL-2.0-only */
/* Encapsulation: replaces the outer headers of an inner frame, if it has any, by new ones. */
#ifndef DROPLET_ENCAP_H
#define DROPLET_ENCAP_H

#include "lib/gso.h"
#include "lib/outer.h"

#define OPTION_BYTES  0x3cU /* a mask above the length of all options */
#define OVERHEAD_IPV4 (sizeof(struct iphdr) + sizeof(struct udphdr) + sizeof(struct geneve))
#define MAX_UDP	      65400 /* with the outer IP header still below 64 KiB */
#define OVERHEAD_IPV6 (sizeof(struct ipv6hdr) + sizeof(struct udphdr) + sizeof(struct geneve))

/*
 * Writes and sums whole words from registers: reading back bytes that were just written in another width would stall
 * the CPU. DF is set, so the identification is 0 (RFC 6864 section 4.1).
 */
static __always_inline void write_ipv4(struct iphdr *ip, const struct local_droplet *local, const struct tunnel *tunnel,
				       __u32 total)
{
	__u32 first = bpf_htonl(0x45000000 | (__u32)tunnel->tos << 16 | total);
	__u32 second = bpf_htonl(FRAGMENT_NEVER);
	__u32 third = bpf_htonl((__u32)tunnel->ttl << 24 | IPPROTO_UDP << 16);
	__be32 source = unmapped(&local->address), destination = unmapped(&tunnel->peer.address);
	__u32 *word = (__u32 *)ip;

	word[0] = first;
	word[1] = second;
	word[2] = third;
	word[3] = source;
	word[4] = destination;
	ip->check = checksum_fold((__u64)first + second + third + source + destination);
}

/* The flow label carries entropy, as the source port does (RFC 6438). */
static __always_inline void write_ipv6(struct ipv6hdr *ip, const struct local_droplet *local,
				       const struct tunnel *tunnel, __u32 payload)
{
	__u32 label = ((__u32)tunnel->source_port * 0x9e3779b1U) >> 12;
	__u32 *word = (__u32 *)ip;

	word[0] = bpf_htonl(0x60000000 | (__u32)tunnel->tos << 20 | label);
	word[1] = bpf_htonl(payload << 16 | IPPROTO_UDP << 8 | tunnel->ttl);
	copy_address((struct address *)&ip->saddr, &local->address);
	copy_address((struct address *)&ip->daddr, &tunnel->peer.address);
}

/* Writes UDP without a checksum, and Geneve or VXLAN. */
static __always_inline void write_udp(struct udphdr *udp, const struct tunnel *tunnel, __u32 length, __u32 options,
				      bool ipv6)
{
	bool vxlan = VXLAN_PORT && tunnel->flags & TUNNEL_VXLAN;

	udp->source = tunnel->source_port;
	udp->dest = vxlan ? bpf_htons(VXLAN_PORT) : bpf_htons(GENEVE_PORT);
	udp->len = bpf_htons(length);
	udp->check = 0; /* RFC 8926 section 3.3 */
	if (vxlan)
		write_vxlan((void *)(udp + 1), tunnel);
	else
		write_geneve((void *)(udp + 1), tunnel, options, ipv6);
}

/* The UDP checksum, required over IPv6 (RFC 8926 section 3.3, RFC 6936). */
static __always_inline void write_checksum(struct ipv6hdr *ip, void *end, __u32 length, __u32 options,
					   const struct inner_sum *inner)
{
	struct udphdr *udp = (void *)(ip + 1);
	__u64 sum = sum_pseudo_ipv6(ip, length, IPPROTO_UDP);
	__u32 headers = sizeof(*udp) + sizeof(struct geneve) + options;

	sum = sum_frame(udp, end, headers + inner->unread, sum + inner->known);
	udp->check = checksum_fold(sum) ?: 0xffff;
}

static __always_inline void write_ethernet(struct ethhdr *ethernet, const struct local_droplet *local,
					   const struct next_hop *hop, __be16 kind)
{
	struct vlan_tag *tag = (void *)(ethernet + 1);

	copy_mac(ethernet->h_dest, hop->mac);
	copy_mac(ethernet->h_source, local->mac);
	if (VLAN_TAGS && INLINE_TAGS && local->vlan) {
		ethernet->h_proto = bpf_htons(ETH_P_8021Q);
		tag->control = local->vlan;
		tag->ethertype = kind;
	} else {
		ethernet->h_proto = kind;
	}
}

/* Bytes of outer headers that count towards the path's MTU: all but Ethernet. */
static __always_inline __u32 overhead(const struct tunnel *tunnel, bool ipv6)
{
	return (ipv6 ? OVERHEAD_IPV6 : OVERHEAD_IPV4) + option_bytes(tunnel, ipv6);
}

/*
 * The MTU of an endpoint on a path. Reserves space for an RTS option, which any packet may need, and for its label, 0
 * for none.
 */
static __always_inline __u32 endpoint_mtu(const struct next_hop *hop, bool ipv6, __u32 label)
{
	__u32 headers = sizeof(struct ethhdr) + (ipv6 ? OVERHEAD_IPV6 + RTS_IPV6 : OVERHEAD_IPV4 + RTS_IPV4);

	headers += label ? sizeof(struct label_option) : 0;
	return hop->mtu > headers ? hop->mtu - headers : 0;
}

/* Whether an inner frame, or each of its segments, fits the MTU of a path with the outer headers. */
static __always_inline bool fits_path(const struct tunnel *tunnel, const struct next_hop *hop, bool ipv6)
{
	return overhead(tunnel, ipv6) + longest_packet(tunnel) <= hop->mtu;
}

static __always_inline bool is_over_ipv6(const struct local_droplet *local)
{
	return OUTER_IPV6 && (!OUTER_IPV4 || !is_ipv4(&local->address));
}

/* No UDP checksum over IPv6 if either droplet is configured for that (RFC 6936). */
static __always_inline bool omits_checksum(const struct local_droplet *local, const struct next_hop *hop)
{
	return hop->flags & NEXT_HOP_ZERO_CHECKSUM || local->flags & DROPLET_ZERO_CHECKSUM;
}

/*
 * Write all outer headers; `first` is the offset of the IP header. The bounds check includes the longest options, which
 * always succeeds because an inner frame is longer than that.
 */
static __always_inline bool write_over_ipv4(context *ctx, __u32 first, const struct local_droplet *local,
					    const struct tunnel *tunnel, const struct next_hop *hop, __u32 udp_length,
					    __u32 options)
{
	void *start = frame_start(ctx), *ip = start + first;

	if (ip + OVERHEAD_IPV4 + RTS_IPV4 + sizeof(struct label_option) > frame_end(ctx))
		return false;
	write_ethernet(start, local, hop, bpf_htons(ETH_P_IP));
	write_ipv4(ip, local, tunnel, sizeof(struct iphdr) + udp_length);
	write_udp(ip + sizeof(struct iphdr), tunnel, udp_length, options, false);
	return true;
}

static __always_inline bool write_over_ipv6(context *ctx, __u32 first, const struct local_droplet *local,
					    const struct tunnel *tunnel, const struct next_hop *hop, __u32 udp_length,
					    __u32 options, const struct inner_sum *inner)
{
	void *start = frame_start(ctx), *ip = start + first;

	if (ip + OVERHEAD_IPV6 + RTS_IPV6 + sizeof(struct label_option) > frame_end(ctx))
		return false;
	write_ethernet(start, local, hop, bpf_htons(ETH_P_IPV6));
	write_ipv6(ip, local, tunnel, udp_length);
	write_udp(ip + sizeof(struct ipv6hdr), tunnel, udp_length, options, true);
	if (!omits_checksum(local, hop))
		write_checksum(ip, frame_end(ctx), udp_length, options, inner);
	return true;
}

/*
 * Encapsulates the inner frame for tunnel->peer through `hop`, whose MTU it fits. Returns `sent`, or NO_HEADROOM.
 * `inner` is needed for a UDP checksum. `offloads`: see add_outer().
 */
static __always_inline enum outcome send(context *ctx, const struct local_droplet *local, const struct tunnel *known,
					 const struct next_hop *hop, const struct inner_sum *inner, bool offloads,
					 enum outcome sent)
{
	const struct tunnel copy = *known, *tunnel = &copy;
	bool ipv6 = is_over_ipv6(local);
	__u32 options = option_bytes(tunnel, ipv6), headers;
	bool tagged = VLAN_TAGS && local->vlan, summed = ipv6 && !omits_checksum(local, hop);
	__u32 first = sizeof(struct ethhdr) + (INLINE_TAGS && tagged ? sizeof(struct vlan_tag) : 0);
	__u32 udp_length;

	/* The verifier would check all that follows for each way to come here, and for each sum of options. */
	sent = forgotten(sent);
	options = bounded(forgotten(options), OPTION_BYTES);
	headers = (ipv6 ? OVERHEAD_IPV6 : OVERHEAD_IPV4) + options;
	udp_length = sizeof(struct udphdr) + sizeof(struct geneve) + options + tunnel->length;
	if (HAS_GSO && segment_bytes(ctx) && summed) /* each segment would need its own */
		return GSO_PACKET;
	if (HAS_GSO && udp_length > MAX_UDP)
		return TOO_BIG;
	if (tunnel->headers ? resize_outer(ctx, (int)tunnel->headers - (int)(first + headers), ipv6)
			    : add_outer(ctx, first + headers, ipv6, offloads))
		return NO_HEADROOM;
	if (summed && inner->unread && read_whole(ctx))
		return NO_HEADROOM;
	if (ipv6 ? !write_over_ipv6(ctx, first, local, tunnel, hop, udp_length, options, inner)
		 : !write_over_ipv4(ctx, first, local, tunnel, hop, udp_length, options))
		return NO_HEADROOM;
	return !INLINE_TAGS && tagged && push_tag(ctx, local->vlan) ? NO_HEADROOM : sent;
}

#endif
