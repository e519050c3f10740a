/* SPDX-License-Identifier: GPL-2.0-only */
/* Geneve (RFC 8926): its header, its options, and the return-to-sender option (RTS). */
#ifndef DROPLET_GENEVE_H
#define DROPLET_GENEVE_H

struct geneve {
	__u8 length; /* version in the upper 2 bits, options in units of 4 bytes in the lower 6 */
	__u8 flags;
	__be16 protocol;
	__be32 vni; /* in the upper 24 bits */
};

struct geneve_option {
	__be16 class;
	__u8 type;
	__u8 length; /* of the body, in units of 4 bytes, in the lower 5 bits */
};

/* Travels on packets to and between bouncers and dividers: where to answer, and how often it was sent on. */
struct return_to_sender {
	struct geneve_option option;
	__u8 bounces;
	__u8 zero[3];
	__be32 origin; /* the droplet that the endpoint is on */
};

#define GENEVE_CONTROL_FLAG 0x80
#define GENEVE_ETHERNET	    0x6558
#define OPTION_CLASS	    0xff4d /* RFC 8926 section 7: experimental use */
#define OPTION_RTS	    0x01
#define OPTION_CRITICAL	    0x80
#define MAX_OPTIONS	    8
#define MAX_HEADERS	    0x1ff /* a mask above the longest headers, of 302 bytes */

struct outer_headers {
	struct ethhdr ethernet;
	struct iphdr ip;
	struct udphdr udp;
	struct geneve geneve;
} __attribute__((packed, aligned(2)));

/* A tunnel's ends and what travels in its headers: read from a packet that came in, or for one to be sent. */
struct tunnel {
	struct address peer;   /* received: the other droplet's; to be sent: where to */
	struct address origin; /* where the sender is: by RTS, else the peer */
	__u32 vni;
	__u32 headers; /* bytes in front of the inner frame, as received; 0 when there are none */
	__u32 length;  /* bytes of the inner frame */
	__be16 source_port;
	__u8 tos;
	__u8 ttl;
	__u8 bounces;
	bool returns; /* has an RTS option */
} __attribute__((aligned(8)));

static __always_inline enum outcome parse_option(struct geneve_option *option, void *end, __u32 size,
						 struct tunnel *tunnel)
{
	struct return_to_sender *rts = (void *)option;

	if (option->class != bpf_htons(OPTION_CLASS) || option->type != OPTION_RTS)
		return option->type & OPTION_CRITICAL ? CRITICAL_OPTION : GO_ON;
	if (size != sizeof(*rts) || (void *)(rts + 1) > end)
		return MALFORMED_GENEVE;
	tunnel->returns = true;
	tunnel->bounces = rts->bounces;
	tunnel->origin.word[3] = rts->origin;
	return GO_ON;
}

static __always_inline enum outcome parse_options(void *options, void *end, __u32 length, struct tunnel *tunnel)
{
	struct geneve_option *option;
	enum outcome outcome;
	__u32 at = 0, size;

	for (int i = 0; i < MAX_OPTIONS; i++) {
		if (at >= length)
			break;
		option = options + at;
		if ((void *)(option + 1) > end)
			return MALFORMED_GENEVE;
		size = sizeof(*option) + (option->length & 0x1f) * 4;
		if (at + size > length)
			return MALFORMED_GENEVE;
		outcome = parse_option(option, end, size, tunnel);
		if (outcome != GO_ON)
			return outcome;
		at = bounded(at + size, 0xff);
	}
	return at < length ? GENEVE_OPTIONS : GO_ON;
}

/* `payload` is what UDP says to follow the Geneve header. */
static __always_inline enum outcome parse_geneve(struct geneve *geneve, void *end, __u32 payload, struct tunnel *tunnel)
{
	__u32 options = (geneve->length & 0x3f) * 4;

	if (geneve->length >> 6)
		return GENEVE_VERSION;
	if (geneve->flags & GENEVE_CONTROL_FLAG)
		return GENEVE_CONTROL;
	if (geneve->protocol != bpf_htons(GENEVE_ETHERNET))
		return GENEVE_PROTOCOL;
	if (payload < options + sizeof(struct ethhdr))
		return MALFORMED_GENEVE;
	tunnel->vni = bpf_ntohl(geneve->vni) >> 8;
	tunnel->headers = sizeof(struct outer_headers) + options;
	tunnel->length = payload - options;
	return options ? parse_options(geneve + 1, end, options, tunnel) : GO_ON;
}

/* Reads the outer headers. PASSED when the packet is not a tunnel's to this droplet. */
static __always_inline enum outcome parse_tunnel(context *ctx, const struct local_droplet *local, struct tunnel *tunnel)
{
	void *end = frame_end(ctx);
	struct ethhdr *ethernet = frame_start(ctx);
	struct iphdr *ip = (void *)(ethernet + 1);
	struct udphdr *udp;
	struct geneve *geneve;
	__u32 total, length;

	if ((void *)(ip + 1) > end || ethertype(ethernet) != bpf_htons(ETH_P_IP) || ip->version != 4 ||
	    ip->protocol != IPPROTO_UDP || ip->daddr != unmapped(&local->address) ||
	    ip->frag_off & bpf_htons(FRAGMENT_OFFSET))
		return PASSED;
	udp = (void *)ip + ip->ihl * 4;
	if ((void *)(udp + 1) > end || udp->dest != local->port || ip->ihl < 5)
		return PASSED;
	/* From here on it is ours, for better or worse: the host's stack must not see it. */
	if (ip->frag_off & bpf_htons(FRAGMENT_MORE))
		return OUTER_FRAGMENT;
	if (ip->ihl != 5)
		return OUTER_OPTIONS;
	/* The IPv4 checksum is the link's and the routers' business; a UDP checksum is not verified yet. */
	udp = (void *)(ip + 1);
	geneve = (void *)(udp + 1);
	if ((void *)(geneve + 1) > end)
		return MALFORMED_OUTER;
	total = bpf_ntohs(ip->tot_len);
	length = bpf_ntohs(udp->len);
	if (total != sizeof(*ip) + length || total + sizeof(*ethernet) > frame_length(ctx) ||
	    length < sizeof(*udp) + sizeof(*geneve))
		return MALFORMED_OUTER;
	tunnel->peer = mapped(ip->saddr);
	tunnel->origin = tunnel->peer;
	tunnel->source_port = udp->source;
	tunnel->tos = ip->tos;
	tunnel->ttl = ip->ttl;
	return parse_geneve(geneve, end, length - sizeof(*udp) - sizeof(*geneve), tunnel);
}

#endif
