/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The keys and values of every map that C and Python share: the one source.
 * agent/core/layout.py packs them; tests/unit/test_layout.py holds every offset against this file.
 * Padding is explicit. Change a layout, and LAYOUT_VERSION in agent/core/layout.py goes up.
 *
 * Includes nothing, so that a plain C compiler can print its offsets: the includer brings <linux/types.h>.
 */
#ifndef DROPLET_STRUCTS_H
#define DROPLET_STRUCTS_H

/* An IPv6 address, or an IPv4 address mapped into one (::ffff:a.b.c.d, RFC 4291 section 2.5.5.2). */
struct address {
	__be32 word[4];
};

/* One address in one VPC. */
struct overlay_key {
	__u32 vni;
	struct address address;
};

/* endpoints: overlay_key -> where it is. Local when ifindex is not 0. Written by the agent. */
struct endpoint {
	struct address host; /* the droplet that it is on */
	__u32 ifindex;	     /* host side of its veth, 0 when it is on another droplet */
	__u32 slot;	     /* index into interfaces and endpoint_counters, local endpoints only */
	__u8 mac[6];
	__u8 pad[2];
};

/* interfaces: slot of an endpoint of this droplet -> who sends there. Absent when vni is 0. Written by the agent. */
struct interface {
	__u32 vni;
	struct address address; /* the only source that is let through */
	__u8 mac[6];
	__u8 pad[2];
};

#define MAX_SET 16 /* bouncers of a network, dividers of a VPC */

struct network_key {
	__u32 prefixlen; /* 32 for the VNI + the CIDR's length in the mapped address */
	__u32 vni;
	struct address address;
};

#define NETWORK_BOUNCED_HERE 1U /* this droplet is one of its bouncers */

/* networks: longest prefix -> its gateway and bouncers. Written by the agent. */
struct network {
	struct address gateway;
	__u32 flags;
	__u32 count;
	struct address bouncers[MAX_SET];
};

#define VPC_DIVIDED_HERE 1U /* this droplet is one of its dividers */

/* vpcs: VNI -> its dividers. Written by the agent. */
struct vpc {
	__u32 flags;
	__u32 count;
	struct address dividers[MAX_SET];
};

/* droplets: substrate address -> known, other than this droplet itself. Written by the agent. */
struct droplet {
	__u32 flags; /* none yet */
};

/* next_hops: a droplet's substrate address -> the Ethernet address that leads there. Kept by neighbour events. */
struct next_hop {
	__u8 mac[6];
	__u8 pad[2];
};

/* local_droplet: one entry. The droplet that this agent owns. Written by the agent. */
struct local_droplet {
	struct address address;
	__u32 ifindex;
	__u8 mac[6];
	__be16 port; /* UDP port of Geneve */
};

/* direct: overlay_key -> the host it was heard from, directly or by return-to-sender. Written by transit XDP. */
struct direct_path {
	struct address host;
	__u64 confirmed_ns;   /* CLOCK_MONOTONIC_COARSE when last heard, for people */
	__u64 confirmed_tick; /* the kernel's tick then, by which the programs tell its age */
};

/* outcomes: enum outcome -> per CPU. */
struct traffic {
	__u64 packets;
	__u64 bytes;
};

/* endpoint_counters: slot -> per CPU. Bytes are those of the inner Ethernet frame. */
struct endpoint_traffic {
	struct traffic sent;	  /* left the endpoint and went on, direct or not */
	struct traffic direct;	  /* of those, by the direct path or on the same host */
	struct traffic delivered; /* handed to the endpoint */
	struct traffic dropped;	  /* sent by the endpoint and dropped */
};

#endif
