/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The contract of functions: what a program that a user puts into the packet's path includes, and all that it needs.
 *
 *	#include "stage.h"
 *
 *	int stage_function(struct stage *stage)
 *	{
 *		return STAGE_GO_ON;
 *	}
 *
 * The agent appends the function to a program of its own, once for XDP and once for tc, which calls it for each packet
 * in its scope, carries out its verdict and counts. The function reads and writes the packet between stage_start() and
 * stage_end() after it has compared the addresses, as the kernel's verifier demands. It sees one packet at a time, and
 * of long packets at tc the first bytes only (at least 256, or the whole packet if it is shorter); a GSO packet stands
 * for `packets` packets and has one set of headers. It cannot change the length of a packet.
 *
 * It may use maps that it declares, up to 224 bytes of stack, bounded loops, and these helpers of the kernel:
 * bpf_map_lookup_elem, bpf_map_update_elem, bpf_map_delete_elem, bpf_ktime_get_ns, bpf_ktime_get_coarse_ns,
 * bpf_jiffies64, bpf_get_prandom_u32, bpf_get_smp_processor_id and bpf_csum_diff.
 */
#ifndef DROPLET_STAGE_H
#define DROPLET_STAGE_H

#include <linux/types.h>

#define STAGE_ABI 1 /* changes when a program must be compiled anew */

#define STAGE_INLINE static inline __attribute__((always_inline, unused))

/* Where the function runs. */
enum stage_point {
	STAGE_FROM_ENDPOINT = 1, /* sent by an endpoint, its source is checked; the route is looked up afterwards */
	STAGE_TO_ENDPOINT = 2,	 /* about to be delivered to an endpoint of this host; everything is checked */
	STAGE_FORWARDED = 3,	 /* about to leave this bouncer or divider */
	STAGE_FROM_UNDERLAY = 4, /* a tunnel packet from a known droplet, with its outer headers */
	STAGE_PASSED = 5,  /* not for the overlay, and not parsed; about to be passed to the host's network stack */
	STAGE_DROPPED = 6, /* dropped; verdicts are ignored, but for STAGE_HAND_OVER */
};

/* What becomes of the packet. 0 and all other values are faults: on_fault in the function's document decides. */
enum stage_verdict {
	STAGE_GO_ON = 1,     /* to the next function, then on its way */
	STAGE_DROP = 2,	     /* counted under stage->reason, 0 to 15 */
	STAGE_SEND_BACK = 3, /* to where it came from; see stage_swap() */
	STAGE_SEND_TO = 4,   /* as it is to the endpoint of this host and the same VPC with the address stage->target */
	STAGE_SEND = 5, /* at to_endpoint of a function endpoint: on its way as a packet that this endpoint sends */
	STAGE_HAND_OVER = 6, /* as STAGE_GO_ON, and the next process behind it that takes only such packets gets it */
};

enum stage_direction {
	STAGE_EGRESS = 1,  /* from an endpoint of this host */
	STAGE_INGRESS = 2, /* from the underlay */
};

#define STAGE_IPV4 0x0800
#define STAGE_IPV6 0x86dd

#define STAGE_NO_ENDPOINT 0xffffffffU

#define STAGE_FRAGMENT	 1U /* a fragment of an IP packet */
#define STAGE_NO_PORTS	 2U /* a later fragment, or headers that could not be parsed: no transport header */
#define STAGE_UNFINISHED 4U /* at tc: its TCP or UDP checksum may still have to be completed by a device */

/* An IPv6 address, or an IPv4 address mapped into one (::ffff:a.b.c.d). Network byte order. */
struct stage_address {
	__be32 word[4];
};

/*
 * One packet at one point. The fields from `target` on are read after the function returned; changing others has no
 * effect.
 */
struct stage {
	__u64 start;		   /* stage_start() */
	__u64 end;		   /* stage_end() */
	__u64 configuration;	   /* stage_configuration() */
	struct stage_address peer; /* the droplet that sent it; zeros: none, or not for this function */
	__u32 vni;		   /* 0: of no VPC, or unknown */
	__u32 length;		   /* bytes of the frame as received; more than can be read if it is long */
	__u32 packets;		   /* 1, or the segments of a GSO packet */
	__u32 sender;		   /* slot of the endpoint of this host that sent it; or STAGE_NO_ENDPOINT */
	__u32 receiver;		   /* slot of the endpoint of this host that it will be delivered to, likewise */
	__u32 label;		   /* of the sender; 0: none */
	__u16 inner;	   /* offset of the inner Ethernet header from stage_start(): 0 except at from_underlay */
	__u16 transport;   /* offset of the transport header from the inner Ethernet header; 0: none */
	__u16 ethertype;   /* STAGE_IPV4, STAGE_IPV6, or 0: neither, or not parsed. Host byte order */
	__u16 drop_reason; /* at dropped: a number of enum outcome (docs/outcomes.md) */
	__u8 protocol;	   /* of the transport header, as in IP */
	__u8 point;	   /* enum stage_point */
	__u8 direction;	   /* enum stage_direction */
	__u8 flags;	   /* STAGE_* */
	__u8 pad0[4];

	struct stage_address target; /* for STAGE_SEND_TO */
	__u8 reason;		     /* for STAGE_DROP: 0 to 15, a meaning of the function's own */
	__u8 changed;		     /* 1: addresses, ports or lengths were changed: the packet is parsed again */
	__u8 pad[6];
};

/* The function that the user defines; returns an enum stage_verdict. */
int stage_function(struct stage *stage);

#define STAGE_OFFSET 0x7ffU /* a mask above all offsets that the functions below use */

/* Shows the verifier a bound that clang would optimise away. */
STAGE_INLINE __u32 stage_bounded(__u32 value, __u32 mask)
{
	asm volatile("" : "+r"(value));
	return value & mask;
}

STAGE_INLINE void *stage_start(const struct stage *stage)
{
	return (void *)(long)stage->start;
}

STAGE_INLINE void *stage_end(const struct stage *stage)
{
	return (void *)(long)stage->end;
}

/* The inner Ethernet header. */
STAGE_INLINE void *stage_frame(const struct stage *stage)
{
	return stage_start(stage) + stage_bounded(stage->inner, 0x1ff);
}

#define STAGE_CONFIGURATION_SIZE 4096

/* STAGE_CONFIGURATION_SIZE bytes: those of the function's document, then zeros. Not to be written. */
STAGE_INLINE const void *stage_configuration(const struct stage *stage)
{
	return (const void *)(long)stage->configuration;
}

#define STAGE_SWAP16(value) ((__u16)((((value) & 0xff) << 8) | (((value) >> 8) & 0xff)))

#define STAGE_L3	14 /* offset of the IP header from the inner Ethernet header */
#define STAGE_TCP	6
#define STAGE_UDP	17
#define STAGE_ICMP	1
#define STAGE_ICMPV6	58
#define STAGE_IPV4_SUM	24 /* of the header checksum */
#define STAGE_IPV4_FROM 26
#define STAGE_IPV4_END	34
#define STAGE_IPV6_FROM 22
#define STAGE_IPV6_END	54

/* The 2 bytes at an offset from the inner Ethernet header, as they are in the packet; NULL if they cannot be read. */
STAGE_INLINE __be16 *stage_word(const struct stage *stage, __u32 offset)
{
	__be16 *word = stage_frame(stage) + stage_bounded(offset, STAGE_OFFSET);

	return (void *)(word + 1) <= stage_end(stage) ? word : 0;
}

/* Ports of TCP, UDP and SCTP in host byte order. 0 if the packet has them, else -1. */
STAGE_INLINE int stage_ports(const struct stage *stage, __u16 *source, __u16 *destination)
{
	__be16 *ports = stage_frame(stage) + stage_bounded(stage->transport, STAGE_OFFSET);

	if (!stage->transport || stage->flags & STAGE_NO_PORTS || (void *)(ports + 2) > stage_end(stage) ||
	    (stage->protocol != STAGE_TCP && stage->protocol != STAGE_UDP && stage->protocol != 132))
		return -1;
	*source = STAGE_SWAP16(ports[0]);
	*destination = STAGE_SWAP16(ports[1]);
	return 0;
}

/* Source and destination of an IP packet. 0, or -1 if it is none. */
STAGE_INLINE int stage_addresses(const struct stage *stage, struct stage_address *source,
				 struct stage_address *destination)
{
	__be32 *at = stage_frame(stage) + STAGE_L3;

	if (stage->ethertype == STAGE_IPV4) {
		if ((void *)(at + 5) > stage_end(stage))
			return -1;
		source->word[0] = source->word[1] = destination->word[0] = destination->word[1] = 0;
		source->word[2] = destination->word[2] = (__be32)0xffff0000;
		source->word[3] = at[3];
		destination->word[3] = at[4];
		return 0;
	}
	if (stage->ethertype != STAGE_IPV6 || (void *)(at + 10) > stage_end(stage))
		return -1;
	for (int i = 0; i < 4; i++) {
		source->word[i] = at[2 + i];
		destination->word[i] = at[6 + i];
	}
	return 0;
}

STAGE_INLINE __u16 stage_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Offset of the checksum in the transport header; 0 if the protocol has none that can be updated. */
STAGE_INLINE __u32 stage_checksum_at(__u8 protocol)
{
	if (protocol == STAGE_TCP)
		return 16;
	if (protocol == STAGE_UDP)
		return 6;
	return protocol == STAGE_ICMP || protocol == STAGE_ICMPV6 ? 2 : 0;
}

/* The sum of the pseudo-header of a TCP or UDP packet, not folded. */
STAGE_INLINE __u32 stage_pseudo(const struct stage *stage)
{
	__u16 *at = stage_frame(stage) + STAGE_L3;
	__u32 sum = STAGE_SWAP16(stage->protocol), length;
	int i;

	if (stage->ethertype == STAGE_IPV4) {
		if ((void *)(at + 10) > stage_end(stage))
			return 0;
		for (i = 6; i < 10; i++)
			sum += at[i];
		length = STAGE_SWAP16(at[1]) - (stage->transport - STAGE_L3);
	} else {
		if ((void *)(at + 20) > stage_end(stage))
			return 0;
		for (i = 4; i < 20; i++)
			sum += at[i];
		length = STAGE_SWAP16(at[2]) + 40 - (stage->transport - STAGE_L3);
	}
	return sum + STAGE_SWAP16(length);
}

/* Whether a device will complete the checksum: the sum of the pseudo-header is in its place. */
STAGE_INLINE int stage_is_unfinished(const struct stage *stage, __u16 check)
{
	return stage->flags & STAGE_UNFINISHED && (stage->protocol == STAGE_TCP || stage->protocol == STAGE_UDP) &&
	       check == stage_fold(stage_pseudo(stage));
}

/*
 * Updates the transport checksum for a change of the pseudo-header (`pseudo`) or of the segment, of which `delta` is
 * the sum (RFC 1624). 0, or -1.
 */
STAGE_INLINE int stage_update_transport(const struct stage *stage, __u16 delta, int pseudo)
{
	__u32 at = stage_checksum_at(stage->protocol);
	__u16 *check;

	if (stage->protocol == STAGE_ICMP && pseudo)
		return 0;
	if (!at || !stage->transport)
		return pseudo ? 0 : -1;
	if (stage->flags & STAGE_NO_PORTS) /* it is in another fragment */
		return -1;
	check = stage_frame(stage) + stage_bounded(stage->transport + at, STAGE_OFFSET);
	if ((void *)(check + 1) > stage_end(stage))
		return -1;
	if (stage_is_unfinished(stage, *check)) {
		if (pseudo)
			*check = stage_fold(*check + delta);
		return 0;
	}
	if (stage->protocol == STAGE_UDP && !*check) /* sent without */
		return 0;
	*check = ~stage_fold((__u16) ~*check + delta);
	if (stage->protocol == STAGE_UDP && !*check)
		*check = 0xffff;
	return 0;
}

/* Updates the header checksum of IPv4. 0, or -1. */
STAGE_INLINE int stage_update_ipv4(const struct stage *stage, __u16 delta)
{
	__u16 *check = stage_word(stage, STAGE_IPV4_SUM);

	if (!check)
		return -1;
	*check = ~stage_fold((__u16) ~*check + delta);
	return 0;
}

/*
 * Replaces 2 bytes at an even offset from the inner Ethernet header, with all checksums that cover them: the IPv4
 * header's, and that of TCP, UDP, ICMP or ICMPv6. `value` is as it will be in the packet (network byte order). 0, or -1
 * and nothing changed: not in an IP packet, not readable, or covered by a checksum that cannot be updated.
 */
STAGE_INLINE int stage_replace(struct stage *stage, __u32 offset, __be16 value)
{
	__u32 addresses = stage->ethertype == STAGE_IPV4 ? STAGE_IPV4_FROM : STAGE_IPV6_FROM;
	__u32 addresses_end = stage->ethertype == STAGE_IPV4 ? STAGE_IPV4_END : STAGE_IPV6_END;
	__u32 check_at = stage->transport + stage_checksum_at(stage->protocol);
	__be16 *word = stage_word(stage, offset);
	__u16 delta;

	if (!word || !stage->ethertype || offset & 1 || offset < STAGE_L3 || offset == STAGE_IPV4_SUM)
		return -1;
	delta = stage_fold((__u16) ~*word + value);
	if (stage->transport && offset >= stage->transport && offset != check_at) {
		if (stage_update_transport(stage, delta, 0))
			return -1;
	} else if (offset >= addresses && offset < addresses_end) {
		if (stage_update_transport(stage, delta, 1))
			return -1;
	} else if (stage->flags & STAGE_NO_PORTS && !stage->transport) {
		return -1;
	}
	if (stage->ethertype == STAGE_IPV4 && offset < stage->transport && stage_update_ipv4(stage, delta))
		return -1;
	word = stage_word(stage, offset);
	if (!word)
		return -1;
	*word = value;
	if (!stage->transport || offset < stage->transport + 4U)
		stage->changed = 1;
	return 0;
}

/*
 * Replaces `words` words of an address, with the checksums that cover it. The transport's goes first: it shows whether
 * it is unfinished only while the address is the old one. 0, or -1 and nothing changed.
 */
STAGE_INLINE int stage_write_address(const struct stage *stage, __u16 *at, const __u16 *from, int words)
{
	__u32 sum = 0;
	__u16 delta;
	int i;

	for (i = 0; i < words; i++)
		sum += (__u16)~at[i] + from[i];
	delta = stage_fold(sum);
	if (stage_update_transport(stage, delta, 1))
		return -1;
	for (i = 0; i < words; i++)
		at[i] = from[i];
	return words == 2 ? stage_update_ipv4(stage, delta) : 0;
}

/*
 * Replaces the source address of an IP packet, or with `destination` the other one, with all checksums that cover it.
 * `address` is of the packet's family. 0, or -1 and nothing changed: it is no IP packet, or has a checksum that cannot
 * be updated.
 */
STAGE_INLINE int stage_replace_address(struct stage *stage, int destination, const struct stage_address *address)
{
	__u16 *frame = stage_frame(stage);
	int wrong = -1;

	if (stage->ethertype == STAGE_IPV4 && (void *)frame + STAGE_IPV4_END <= stage_end(stage))
		wrong = stage_write_address(stage, frame + (STAGE_IPV4_FROM + (destination ? 4 : 0)) / 2,
					    (const __u16 *)&address->word[3], 2);
	else if (stage->ethertype == STAGE_IPV6 && (void *)frame + STAGE_IPV6_END <= stage_end(stage))
		wrong = stage_write_address(stage, frame + (STAGE_IPV6_FROM + (destination ? 16 : 0)) / 2,
					    (const __u16 *)address->word, 8);
	if (!wrong)
		stage->changed = 1;
	return wrong;
}

/* Exchanges `words` words with those that follow them. */
STAGE_INLINE void stage_exchange(__u16 *at, int words)
{
	__u16 word;

	for (int i = 0; i < words; i++) {
		word = at[i];
		at[i] = at[words + i];
		at[words + i] = word;
	}
}

/*
 * Exchanges source and destination of Ethernet, IP and, for TCP and UDP, the ports, so that an answer written in place
 * goes back with STAGE_SEND_BACK. Checksums stay right. 0, or -1 if it is not an IP packet.
 */
STAGE_INLINE int stage_swap(struct stage *stage)
{
	__u16 *frame = stage_frame(stage), *ports = stage_frame(stage) + stage_bounded(stage->transport, STAGE_OFFSET);

	if (stage->ethertype == STAGE_IPV4 && (void *)frame + STAGE_IPV4_END <= stage_end(stage))
		stage_exchange(frame + STAGE_IPV4_FROM / 2, 2);
	else if (stage->ethertype == STAGE_IPV6 && (void *)frame + STAGE_IPV6_END <= stage_end(stage))
		stage_exchange(frame + STAGE_IPV6_FROM / 2, 8);
	else
		return -1;
	if ((void *)(frame + 6) > stage_end(stage))
		return -1;
	stage_exchange(frame, 3);
	if (stage->transport && !(stage->flags & STAGE_NO_PORTS) &&
	    (stage->protocol == STAGE_TCP || stage->protocol == STAGE_UDP) && (void *)(ports + 2) <= stage_end(stage))
		stage_exchange(ports, 1);
	stage->changed = 1;
	return 0;
}

#endif
