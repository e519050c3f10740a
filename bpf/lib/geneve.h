/* SPDX-License-Identifier: GPL-2.0-only */
/* Geneve (RFC 8926): header and options. Our options: return-to-sender (RTS), invalidate, misdirected, probe, label. */
#ifndef DROPLET_GENEVE_H
#define DROPLET_GENEVE_H

#include "lib/address.h"
#include "lib/verifier.h"
#include "outcomes.h"

struct geneve {
	__u8 length; /* version in the upper 2 bits, options in units of 4 bytes in the lower 6 */
	__u8 flags;
	__be16 protocol;
	__be32 vni; /* in the upper 24 bits */
};

struct geneve_option {
	__be16 class;
	__u8 type;
	__u8 length; /* of the data, in units of 4 bytes, in the lower 5 bits */
};

/*
 * On packets to and between bouncers and dividers: the droplet of the sender (origin, of 4 or 16 bytes), how often the
 * packet was forwarded, and which bouncer or divider to select. The misdirected option has the same format; its origin
 * is the droplet that misdirected the packet.
 */
struct return_to_sender {
	struct geneve_option option;
	__u8 bounces;
	__u8 flags;
	__u8 attempt;
	__u8 zero;
	__be32 origin[4];
};

#define RTS_IPV4 12 /* bytes with an IPv4 origin */
#define RTS_IPV6 24

/*
 * The label of the sender's endpoint, on packets to endpoints whose network asks for labels, and on the way to networks
 * that the sender's host does not know. Its other type, which direct packets of a network that asks have, also says
 * that; packets with RTS say it there. The label is then 0 if the sender has none.
 */
struct label_option {
	struct geneve_option option;
	__be32 label;
};

/* In control packets: asks the other droplet to send the whole packet back. */
struct probe {
	struct geneve_option option;
	__u8 kind;
	__u8 zero[3];
	__u64 nonce;
};

#define PROBE_REQUEST 1
#define PROBE_REPLY   2

#define GENEVE_CONTROL_FLAG  0x80
#define GENEVE_CRITICAL_FLAG 0x40
#define GENEVE_ETHERNET	     0x6558
#define OPTION_CLASS	     0xff4d /* RFC 8926 section 7: experimental use */
#define OPTION_RTS	     0x01
#define OPTION_INVALIDATE    0x82 /* critical, without data: the inner destination is not on this droplet */
#define OPTION_PROBE	     0x03
#define OPTION_MISDIRECTED   0x84 /* critical: a bouncer or divider sent the packet to a host without its destination */
#define OPTION_LABEL	     0x05
#define OPTION_LABEL_ASKING  0x06 /* the sender's network asks for labels */
#define OPTION_CRITICAL	     0x80
#define MAX_OPTIONS	     63 /* options of 4 bytes each that fit */

static __always_inline enum outcome find_option(const struct geneve_option *option, __u32 at, struct options *found)
{
	if (option->class == bpf_htons(OPTION_CLASS)) {
		if (option->type == OPTION_RTS)
			found->rts = at;
		if (option->type == OPTION_PROBE)
			found->probe = at;
		if (option->type == OPTION_LABEL || option->type == OPTION_LABEL_ASKING)
			found->label = at;
		if (option->type == OPTION_INVALIDATE || option->type == OPTION_MISDIRECTED) {
			found->returned = at;
			return CONTINUE;
		}
	}
	return option->type & OPTION_CRITICAL ? CRITICAL_OPTION : CONTINUE;
}

/* `at` and `limit` are the offsets of the first option and of their end. */
static __always_inline enum outcome find_options(void *start, void *end, __u32 at, __u32 limit, struct options *found)
{
	struct geneve_option *option;
	enum outcome outcome;
	__u32 size;

	for (int i = 0; i < MAX_OPTIONS; i++) {
		if (at >= limit)
			break;
		option = start + at;
		if ((void *)(option + 1) > end)
			return MALFORMED_GENEVE;
		size = sizeof(*option) + (option->length & 0x1f) * 4;
		if (at + size > limit)
			return MALFORMED_GENEVE;
		outcome = find_option(option, at, found);
		if (outcome != CONTINUE)
			return outcome;
		at = bounded(at + size, MAX_HEADERS);
	}
	return CONTINUE;
}

static __always_inline __u32 option_size(const struct geneve_option *option)
{
	return sizeof(*option) + (option->length & 0x1f) * 4;
}

/* `flag` is the TUNNEL_* flag of the option. */
static __always_inline enum outcome read_rts(void *start, void *end, __u32 at, struct tunnel *tunnel, __u8 returns)
{
	struct return_to_sender *rts = start + bounded(at, MAX_HEADERS);

	if ((void *)rts + RTS_IPV4 > end)
		return MALFORMED_GENEVE;
	if (option_size(&rts->option) == RTS_IPV4)
		set_address(&tunnel->origin, rts->origin[0]);
	else if (option_size(&rts->option) == RTS_IPV6 && (void *)rts + RTS_IPV6 <= end)
		copy_address(&tunnel->origin, rts->origin);
	else
		return MALFORMED_GENEVE;
	tunnel->flags |= returns;
	tunnel->bounces = rts->bounces;
	tunnel->rts = rts->flags;
	tunnel->attempt = rts->attempt;
	return CONTINUE;
}

static __always_inline enum outcome read_probe(void *start, void *end, __u32 at, struct tunnel *tunnel)
{
	struct probe *probe = start + bounded(at, MAX_HEADERS);

	if ((void *)(probe + 1) > end || option_size(&probe->option) != sizeof(*probe))
		return MALFORMED_GENEVE;
	if (probe->kind == PROBE_REQUEST)
		tunnel->flags |= TUNNEL_PROBE;
	tunnel->probe = at;
	return CONTINUE;
}

/* The last label option, of either type. */
static __always_inline enum outcome read_label(void *start, void *end, __u32 at, struct tunnel *tunnel)
{
	struct label_option *label = start + bounded(at, MAX_HEADERS);

	if ((void *)(label + 1) > end || option_size(&label->option) != sizeof(*label))
		return MALFORMED_GENEVE;
	tunnel->label = bpf_ntohl(label->label);
	if (label->option.type == OPTION_LABEL_ASKING)
		tunnel->rts |= RTS_LABELS;
	return CONTINUE;
}

/* The last invalidate or misdirected option. */
static __always_inline enum outcome read_returned(void *start, void *end, __u32 at, struct tunnel *tunnel)
{
	struct geneve_option *option = start + bounded(at, MAX_HEADERS);

	if ((void *)(option + 1) > end)
		return MALFORMED_GENEVE;
	if (option->type == OPTION_MISDIRECTED)
		return read_rts(start, end, at, tunnel, TUNNEL_MISDIRECTED);
	if (option_size(option) != sizeof(*option))
		return MALFORMED_GENEVE;
	tunnel->flags |= TUNNEL_INVALIDATES;
	return CONTINUE;
}

/* `at` is the offset of the first option, `length` that of all. */
static __always_inline enum outcome parse_options(void *start, void *end, __u32 at, __u32 length, struct tunnel *tunnel,
						  struct options *found)
{
	enum outcome outcome;

	found->rts = 0;
	found->probe = 0;
	found->returned = 0;
	found->label = 0;
	asm volatile("" : : : "memory"); /* else clang would keep `found` in registers */
	outcome = find_options(start, end, at, at + length, found);
	asm volatile("" : : : "memory");
	if (outcome == CONTINUE && found->rts)
		outcome = read_rts(start, end, found->rts, tunnel, TUNNEL_RTS);
	if (outcome == CONTINUE && found->probe)
		outcome = read_probe(start, end, found->probe, tunnel);
	if (outcome == CONTINUE && found->returned)
		outcome = read_returned(start, end, found->returned, tunnel);
	if (outcome == CONTINUE && found->label)
		outcome = read_label(start, end, found->label, tunnel);
	return outcome;
}

/*
 * `at` is the offset of the Geneve header, `payload` the length behind it according to UDP. A control packet needs no
 * inner frame.
 */
static __always_inline enum outcome parse_geneve(void *start, void *end, __u32 at, __u32 payload, struct tunnel *tunnel,
						 struct options *found)
{
	struct geneve *geneve = start + at;
	__u32 options;

	if ((void *)(geneve + 1) > end)
		return MALFORMED_OUTER;
	options = (geneve->length & 0x3f) * 4;
	if (geneve->length >> 6)
		return GENEVE_VERSION;
	if (geneve->protocol != bpf_htons(GENEVE_ETHERNET))
		return GENEVE_PROTOCOL;
	if (geneve->flags & GENEVE_CONTROL_FLAG)
		tunnel->flags |= TUNNEL_CONTROL;
	if (payload < options + (geneve->flags & GENEVE_CONTROL_FLAG ? 0 : sizeof(struct ethhdr)))
		return MALFORMED_GENEVE;
	tunnel->label = 0;
	tunnel->vni = bpf_ntohl(geneve->vni) >> 8;
	tunnel->headers = at + sizeof(*geneve) + options;
	tunnel->length = payload - options;
	return options ? parse_options(start, end, at + sizeof(*geneve), options, tunnel, found) : CONTINUE;
}

/* Whether a packet has to say that its sender's network asks for labels: packets with other options say it there. */
static __always_inline bool asks_directly(const struct tunnel *tunnel)
{
	return tunnel->rts & RTS_LABELS && !(tunnel->flags & (TUNNEL_RTS | TUNNEL_RETURNED));
}

/* VXLAN has no options. */
static __always_inline __u32 label_bytes(const struct tunnel *tunnel)
{
	if (VXLAN_PORT && tunnel->flags & TUNNEL_VXLAN)
		return 0;
	return tunnel->label || asks_directly(tunnel) ? sizeof(struct label_option) : 0;
}

/* Bytes of the options other than the label. */
static __always_inline __u32 path_option_bytes(const struct tunnel *tunnel, bool ipv6)
{
	if (tunnel->flags & (TUNNEL_RTS | TUNNEL_MISDIRECTED))
		return ipv6 ? RTS_IPV6 : RTS_IPV4;
	return tunnel->flags & TUNNEL_INVALIDATES ? sizeof(struct geneve_option) : 0;
}

static __always_inline __u32 option_bytes(const struct tunnel *tunnel, bool ipv6)
{
	return path_option_bytes(tunnel, ipv6) + label_bytes(tunnel);
}

static __always_inline void write_label(struct label_option *option, const struct tunnel *tunnel)
{
	__u32 type = asks_directly(tunnel) ? OPTION_LABEL_ASKING : OPTION_LABEL;
	__be32 *word = (__be32 *)option;

	word[0] = bpf_htonl(OPTION_CLASS << 16 | type << 8 | (sizeof(*option) / 4 - 1));
	word[1] = bpf_htonl(tunnel->label);
}

static __always_inline void write_path_option(struct return_to_sender *rts, const struct tunnel *tunnel, bool ipv6)
{
	__be32 *word = (__be32 *)rts;
	__u32 type = tunnel->flags & TUNNEL_MISDIRECTED ? OPTION_MISDIRECTED : OPTION_RTS;

	if (tunnel->flags & TUNNEL_INVALIDATES) {
		word[0] = bpf_htonl(OPTION_CLASS << 16 | OPTION_INVALIDATE << 8);
		return;
	}
	word[0] = bpf_htonl(OPTION_CLASS << 16 | type << 8 | ((ipv6 ? RTS_IPV6 : RTS_IPV4) / 4 - 1));
	word[1] = bpf_htonl((__u32)tunnel->bounces << 24 | (__u32)tunnel->rts << 16 | (__u32)tunnel->attempt << 8);
	if (ipv6)
		copy_address((struct address *)rts->origin, &tunnel->origin);
	else
		rts->origin[0] = unmapped(&tunnel->origin);
}

/* `options` is their length in bytes; the caller checked the bounds. */
static __always_inline void write_geneve(struct geneve *geneve, const struct tunnel *tunnel, __u32 options, bool ipv6)
{
	__u32 critical = tunnel->flags & TUNNEL_RETURNED ? GENEVE_CRITICAL_FLAG : 0;
	__be32 *word = (__be32 *)geneve;

	word[0] = bpf_htonl((options / 4) << 24 | critical << 16 | GENEVE_ETHERNET);
	word[1] = bpf_htonl(tunnel->vni << 8);
	if (!options)
		return;
	if (!label_bytes(tunnel)) {
		write_path_option((void *)(geneve + 1), tunnel, ipv6);
		return;
	}
	if (path_option_bytes(tunnel, ipv6))
		write_path_option((void *)(geneve + 1) + sizeof(struct label_option), tunnel, ipv6);
	write_label((void *)(geneve + 1), tunnel);
}

#endif
