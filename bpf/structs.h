/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The keys and values of every map that C and Python share: the one source.
 * agent/core/model/map_layout.py packs them; tests/unit/test_map_layout.py holds every offset against this file.
 * Padding is explicit. Change a layout, and LAYOUT_VERSION in agent/core/model/map_layout.py goes up.
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

#define ENDPOINT_VXLAN	1U /* its network's tunnels are VXLAN's */
#define ENDPOINT_PINNED 2U /* other networks reach it through a divider only */

/* endpoints: overlay_key -> where it is. Local when ifindex is not 0. Written by the agent. */
struct endpoint {
	struct address host; /* the droplet that it is on */
	__u32 ifindex;	     /* host side of its veth: IFINDEX_BASE + slot; 0 when it is on another droplet */
	__u16 flags;
	__u16 mtu; /* of the endpoint's interface; local endpoints only */
	__u8 mac[6];
	__u8 pad[2];
};

#define INTERFACE_PINNED 1U /* its network reaches others through a divider only */

/* interfaces: slot of an endpoint of this host -> who sends there. Absent when vni is 0. Written by the agent. */
struct interface {
	__u32 vni;
	__u32 droplet;	     /* index into local_droplets: by which it sends */
	struct address ipv6; /* the only IPv6 source that is let through; :: when it has none */
	__be32 ipv4;	     /* the only IPv4 source that is let through; 0.0.0.0 when it has none */
	__u8 mac[6];
	__u16 flags;
	__u16 mtu; /* the longest packet that it may send, without the Ethernet header */
	__u8 tos;  /* its class: the DSCP of its tunnel packets in the upper 6 bits */
	__u8 pad;
};

#define MAX_SET 16 /* bouncers of a network, dividers of a VPC */

struct network_key {
	__u32 prefixlen; /* 32 for the VNI + the CIDR's length in the mapped address */
	__u32 vni;
	struct address address;
};

#define NETWORK_BOUNCED_HERE 1U /* this host is one of its bouncers */
#define NETWORK_PINNED	     2U /* it reaches other networks through a divider only */

/* networks: longest prefix -> its gateway and bouncers. Written by the agent. */
struct network {
	struct address gateway;
	__u32 flags;
	__u32 count;
	__be32 broadcast; /* its IPv4 broadcast address; 0 when it has none: of IPv6, or longer than 30 bits (RFC 3021)
			   */
	__u32 pad;
	struct address bouncers[MAX_SET];
};

#define VPC_DIVIDED_HERE 1U /* this host is one of its dividers */

/* vpcs: VNI -> its dividers. Written by the agent. */
struct vpc {
	__u32 flags;
	__u32 count;
	struct address dividers[MAX_SET];
};

#define DROPLET_ZERO_CHECKSUM 1U /* no UDP checksum over IPv6 from it and to it (RFC 6936); also of local_droplet */

/* droplets: substrate address -> known, other than this host's own. Written by the agent. */
struct droplet {
	__u32 flags;
	__u32 host; /* a number that all droplets of its host have */
};

/* A droplet as it is reached by one of this host's interfaces. */
struct next_hop_key {
	struct address address;
	__u32 interface; /* local_droplet.interface */
};

#define NEXT_HOP_DOWN	       1U /* does not answer probes: no direct path leads there */
#define NEXT_HOP_ZERO_CHECKSUM 2U /* wants no UDP checksum over IPv6 (RFC 6936) */
#define NEXT_HOP_BY_OTHER      4U /* another of this host's interfaces leads there, or does so better */

/*
 * next_hops: a droplet, from one of this host's interfaces -> what leads there. Written by the agent, which follows
 * neighbours, path MTUs and probes, and chooses among interfaces.
 */
struct next_hop {
	__u8 mac[6];
	__u16 mtu; /* of the path: outer IP header and all that follows it */
	__u16 flags;
	__u16 droplet; /* index into local_droplets: whose name it goes in when the sender's own will not do */
};

#define MAX_LOCAL_DROPLETS 16

/*
 * local_droplets: index -> one of this host's droplets. An index keeps its meaning while anything may refer to it, so
 * an entry between others may be empty (interface 0): skip it. A droplet on a bond has more entries, one for each
 * member that frames may come in on; interface.droplet names the one of the bond itself. Written by the agent.
 */
struct local_droplet {
	struct address address;
	__u32 interface; /* that has the address: the physical one, or a VLAN or bond upon it; 0: no entry */
	__u32 arrives;	 /* on which XDP sees its frames come in */
	__u32 leaves;	 /* by which its frames are sent */
	__u8 mac[6];
	__be16 vlan; /* 802.1Q VLAN id, 0: untagged */
	__u32 flags;
};

#define PATH_PINNED 1U /* the endpoint's network reaches others through a divider only */

/* direct: overlay_key -> the host it was heard from, directly or by return-to-sender. Written by transit XDP. */
struct direct_path {
	struct address host;
	__u64 flags;
	__u64 confirmed_ns;   /* CLOCK_MONOTONIC_COARSE when last heard, for people */
	__u64 confirmed_tick; /* the kernel's tick then, by which the programs tell its age */
};

/* A local endpoint and the address that it sends to: what pick() in route.h chooses by. */
struct detour_key {
	struct address from;
	struct overlay_key to;
};

/*
 * detours: detour_key -> which of its bouncers and dividers packets take instead of the first choice, because that one
 * sent them to a host that does not have their destination. By programs.
 */
struct detour {
	struct address misdirected_by; /* the droplet that sent the last returned packet there, for people */
	__u64 attempt;		       /* added to the hash in pick() */
	__u64 tick;		       /* the kernel's when a packet was last returned */
};

/* A fragmented packet of a local endpoint: its identity and direction. */
struct fragment_key {
	__u32 slot;
	__be32 identity;
	struct address to;
	__u32 protocol;
};

/* fragments: fragment_key -> the hash of the flow, from the first fragment, for those without ports. By programs. */
struct fragment {
	__u32 flow;
};

/* told: a bucket of receivers -> ICMP errors told to them in one second, which limits them. By programs. */
struct told {
	__u64 tick; /* when the second began */
	__u64 count;
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

/* Of an inner packet, what its way depends on. */
struct packet {
	struct overlay_key from __attribute__((aligned(8)));
	struct overlay_key to __attribute__((aligned(8)));
	__u16 length; /* from its Ethernet header to the end of what IP says, without padding */
	__u16 kind;   /* ETH_P_IP or ETH_P_IPV6 in host order; 0 when it is neither */
	__u8 tos;
	__u8 ttl;
	__u8 pad[6];
};

#define TUNNEL_RETURNS	   1U  /* has an RTS option: it goes to, or came by, a bouncer or divider */
#define TUNNEL_INVALIDATES 2U  /* has an invalidate option: it comes back, for its endpoint has left */
#define TUNNEL_VXLAN	   4U  /* of VXLAN, not of Geneve */
#define TUNNEL_CONTROL	   8U  /* a Geneve control packet */
#define TUNNEL_PROBE	   16U /* with a probe to be answered */
#define TUNNEL_UNSUMMED	   32U /* came without a UDP checksum over IPv6 */

#define TUNNEL_MISDIRECTED 64U /* has a misdirected option: a bouncer sent it to a host without its endpoint */

#define TUNNEL_COMES_BACK (TUNNEL_INVALIDATES | TUNNEL_MISDIRECTED) /* to the droplet of its sender */

/* Of the RTS option. */
#define RTS_PINNED   1U /* the sender's network reaches others through a divider only */
#define RTS_DIVIDED  2U /* and one was passed */
#define RTS_UNLEARNT 4U /* no direct path leads to the sender: it is a gateway, or its droplet speaks VXLAN */
#define RTS_VXLAN    8U /* the origin speaks VXLAN alone: what is for it goes by that */

/* A tunnel packet's headers: read from one that came in, or for one to be sent. */
struct tunnel {
	struct next_hop_key peer; /* received: the other droplet; to be sent: where to, and by which interface */
	__u32 vni;
	struct address origin; /* where the sender is: by RTS, else the peer; misdirected: who misdirected it */
	__u16 headers;	       /* bytes in front of the inner frame, as received; 0 when there are none */
	__u16 length;	       /* bytes of the inner frame */
	__u16 probe;	       /* where the probe option begins, by bytes from the frame's start */
	__u16 fits;	       /* the endpoint's MTU that would fit, when it does not fit */
	__be16 source_port;
	__u8 tos;
	__u8 ttl;
	__u8 bounces;
	__u8 flags;   /* TUNNEL_* */
	__u8 rts;     /* flags of the RTS option */
	__u8 attempt; /* which choice of every set it takes: see pick() */
} __attribute__((aligned(8)));

/* The transport of a packet: what it is, where it begins, and whether it is a part of a fragmented one. */
struct transport {
	__u32 at; /* bytes from the Ethernet header on */
	__u32 protocol;
	__be32 identity; /* of the packet that this is a fragment of */
	__u8 fragment;	 /* 1: of whatever place */
	__u8 later;	 /* 1: a fragment other than the first; it has no ports */
	__u8 extended;	 /* 1: behind extension headers */
	__u8 pad;
};

/* What the outer IP header says, of whichever family. */
struct outer {
	struct address to __attribute__((aligned(8)));
	__u64 pseudo; /* the sum of what UDP counts in besides itself, but for the length */
	__u16 udp;    /* where the UDP header begins, by bytes from the frame's start */
	__u16 room;   /* bytes from there on */
	__be16 vlan;
	__u8 pad[2];
};

/* Where our Geneve options are, by bytes from the frame's start; 0 for those that are not there. */
struct options {
	__u16 rts;
	__u16 probe;
	__u16 back; /* invalidate or misdirected */
	__u8 pad[2];
};

/*
 * frame_states: 0 -> what is known of the frame that this CPU handles; per CPU. By programs.
 *
 * The program that a frame enters by fills it while it reads the frame, and names in `called` the program that it
 * calls. That one takes the name out before it uses the rest, so that nothing is ever used twice, or for another frame:
 * a CPU runs a frame's programs to their end before it begins with the next one.
 *
 * new_state() in state.h sets `called` and `length`, and clears what some paths read without having written it:
 * packet.length and packet.kind, by which it is known whether there is an IP packet at all, and all of `tunnel` from
 * `headers` on. The rest keeps what the frame before left, and is written before it is read on every path:
 *
 * - packet.from, to, tos and ttl by read_packet(), when it answers GO_ON; from and to by arp_from_endpoint() too;
 * - tunnel.peer.address, vni and origin by read_outer() and parse_udp() for a frame from the substrate, of which those
 *   that they refuse end at once; for a frame of an endpoint peer.address by whoever says where it goes, vni at the
 *   start, and origin when it gets the option that holds it; peer.interface by find_hop();
 * - transport by find_transport(), which all that use it call first;
 * - why and receiver by the caller, local and came_by in transit XDP as soon as the droplet is known;
 * - outer and options while a frame from the substrate is parsed.
 *
 * tests/bpf/test_tail_calls.py and the random frames fill it with garbage before each frame.
 */
struct frame_state {
	struct packet packet;
	struct tunnel tunnel;
	struct transport transport;
	__u32 called;	/* 1 + the slot of the program that is called; 0: none is */
	__u32 length;	/* bytes of the frame as it came in, which are counted */
	__u32 why;	/* transit errors: what its sender is to be told; an enum outcome */
	__u32 receiver; /* transit XDP: the interface of the endpoint of this host that gets it */
	__u16 local;	/* from a tunnel: index of the droplet that it came in for */
	__u8 came_by;	/* from a tunnel: its flags as they were read */
	__u8 pad[5];
	struct outer outer;
	struct options options;
};

#define WATCHED_PROGRAM	  1U /* its id is the kernel's of a program of ours */
#define WATCHED_INTERFACE 2U /* its id is the ifindex of an interface that frames of the underlay come in on */

/* watched: what is ours, for the programs of failures.c. The value says nothing. Written by the agent. */
struct watched_key {
	__u32 kind;
	__u32 id;
};

struct watched_mark {
	__u32 present;
};

/* kernel_layouts: 0 -> offsets in bytes in the running kernel's structs. Absent when net_cookie is 0. By the agent. */
struct kernel_layout {
	__u64 cookie;	      /* of the agent's network namespace: SO_NETNS_COOKIE, socket(7) */
	__u32 device_ifindex; /* in struct net_device */
	__u32 device_net;     /* likewise: nd_net */
	__u32 net_cookie;     /* in struct net */
	__u32 program_aux;    /* in struct bpf_prog */
	__u32 aux_id;	      /* in struct bpf_prog_aux */
	__u32 pad;
};

#define FAILURE_REDIRECT  1U /* the kernel refused to hand the frame to the device */
#define FAILURE_TRANSMIT  2U /* the device did not take it */
#define FAILURE_EXCEPTION 3U /* a device did not take it in generic mode, or the verdict was none */

/* failures: what the kernel dropped after our verdict -> per CPU. By programs. */
struct failure_key {
	__u32 kind;
	__u32 error;   /* a positive errno; 0: the device took fewer frames than it got, and said no more */
	__u32 ifindex; /* where the frame was to leave */
};

struct failure_count {
	__u64 frames;
};

#endif
