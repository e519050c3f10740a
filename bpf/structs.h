/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The keys and values of every map: the only definition. agent/core/model/map_layout.py packs them, and
 * tests/unit/test_map_layout.py compares every offset with this file. Padding is explicit. A change of a layout raises
 * LAYOUT_VERSION in agent/core/model/map_layout.py.
 *
 * Includes nothing, so that a plain C compiler can print the offsets: include <linux/types.h> first.
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

#define ENDPOINT_VXLAN	1U /* its network uses VXLAN */
#define ENDPOINT_PINNED 2U /* other networks reach it only through a divider */
#define ENDPOINT_LABELS 4U /* its network asks for the labels of senders */

/* endpoints: overlay_key -> location. Local if ifindex is not 0. Written by the agent. */
struct endpoint {
	struct address host; /* the droplet that it is on */
	__u32 ifindex;	     /* of the host side of its veth: IFINDEX_BASE + slot; 0 if it is on another droplet */
	__u16 flags;
	__u16 mtu; /* of the endpoint's interface; local endpoints only */
	__u8 mac[6];
	__u8 pad[2];
};

#define INTERFACE_PINNED      1U  /* its network reaches others only through a divider */
#define INTERFACE_STAGES_FROM 2U  /* endpoint_stages has a chain for what it sends */
#define INTERFACE_STAGES_TO   4U  /* endpoint_stages has a chain for what it receives */
#define INTERFACE_FUNCTION    8U  /* a function endpoint: there is no interface, its packets are its functions' */
#define INTERFACE_LABELS      16U /* its network asks for the labels of senders */

/* interfaces: slot -> the local endpoint on that interface. Unused if vni is 0. Written by the agent. */
struct interface {
	__u32 vni;
	__u32 droplet;	     /* index into local_droplets of the droplet that it sends through */
	struct address ipv6; /* the only IPv6 source address allowed; :: if it has none */
	__be32 ipv4;	     /* the only IPv4 source address allowed; 0.0.0.0 if it has none */
	__u8 mac[6];
	__u16 flags;
	__u16 mtu; /* the longest packet it may send, without the Ethernet header */
	__u8 tos;  /* the DSCP of its tunnel packets in the upper 6 bits */
	__u8 pad;
	__u32 label; /* of what it sends; 0: none */
};

/*
 * A chain: the functions that a packet meets at one stage point, in this order. 4 bits for each from the lowest on, 1
 * plus its slot; 0 ends the chain.
 */
#define CHAIN_BITS 4
#define CHAIN_MASK 15U

/* endpoint_stages: slot of a local endpoint -> its chains. Used with INTERFACE_STAGES_*. Written by the agent. */
struct endpoint_stages {
	__u32 from_endpoint;
	__u32 to_endpoint;
};

/* vpc_stages: VNI -> the chains for its packets, if it has any. Written by the agent. */
struct vpc_stages {
	__u32 forwarded;
	__u32 from_underlay;
	__u32 dropped;
	__u32 pad;
};

/* host_stages: 0 -> the chains for frames of no VPC, and which VPCs may be in vpc_stages. Written by the agent. */
struct host_stages {
	__u64 vnis; /* bit (VNI & 63) of each VNI in vpc_stages */
	__u32 passed;
	__u32 dropped;
	__u64 open; /* a bit for each function, by its index in stage_programs: packets pass over its slot if that is
		       empty */
};

#define MAX_SET 16 /* bouncers of a network, dividers of a VPC */

struct network_key {
	__u32 prefixlen; /* 32 for the VNI + the CIDR's length in the mapped address */
	__u32 vni;
	struct address address;
};

#define NETWORK_LOCAL_BOUNCER 1U /* this host is one of its bouncers */
#define NETWORK_PINNED	      2U /* it reaches other networks only through a divider */
#define NETWORK_LABELS	      4U /* it asks for the labels of senders */

/* networks: longest prefix -> its gateway and bouncers. Written by the agent. */
struct network {
	struct address gateway;
	__u32 flags;
	__u32 count;
	__be32 broadcast; /* of IPv4; 0 if it has none: IPv6, or a prefix longer than /30 (RFC 3021) */
	__u32 pad;
	struct address bouncers[MAX_SET];
};

#define VPC_LOCAL_DIVIDER 1U /* this host is one of its dividers */

/* vpcs: VNI -> its dividers. Written by the agent. */
struct vpc {
	__u32 flags;
	__u32 count;
	struct address dividers[MAX_SET];
};

#define DROPLET_ZERO_CHECKSUM 1U /* no UDP checksum over IPv6 from it and to it (RFC 6936); also of local_droplet */

/* droplets: underlay address -> a known droplet of another host. Written by the agent. */
struct droplet {
	__u32 flags;
	__u32 host; /* the same number for all droplets of one host */
};

/* A remote droplet, seen from one of this host's interfaces. */
struct next_hop_key {
	struct address address;
	__u32 interface; /* local_droplet.interface */
};

#define NEXT_HOP_DOWN	       1U /* does not answer probes: not used for direct paths */
#define NEXT_HOP_ZERO_CHECKSUM 2U /* sends and accepts zero UDP checksums over IPv6 (RFC 6936) */
#define NEXT_HOP_BY_OTHER      4U /* reached through another of this host's interfaces */

/*
 * next_hops: a remote droplet, seen from an interface -> its next hop. Written by the agent, which follows neighbours,
 * path MTUs and probes, and chooses among interfaces.
 */
struct next_hop {
	__u8 mac[6];
	__u16 mtu; /* of the path: from the outer IP header on */
	__u16 flags;
	__u16 droplet; /* index into local_droplets: the source to use with NEXT_HOP_BY_OTHER or another family */
};

#define MAX_LOCAL_DROPLETS 16

/*
 * local_droplets: index -> one of this host's droplets. An index is not reused while anything refers to it, so entries
 * in between may be unused (interface 0): skip them. A droplet on a bond has one more entry for each member that
 * receives frames; interface.droplet names the entry of the bond itself. Written by the agent.
 */
struct local_droplet {
	struct address address;
	__u32 interface;  /* that has the address: a physical one, or a VLAN or bond on top of it; 0: unused */
	__u32 rx_ifindex; /* on which XDP receives its frames */
	__u32 tx_ifindex; /* on which its frames are sent */
	__u8 mac[6];
	__be16 vlan; /* 802.1Q VLAN id, 0: untagged */
	__u32 flags;
};

#define PATH_PINNED 1U	/* the endpoint's network reaches others only through a divider */
#define PATH_LABELS 16U /* it asks for the labels of senders; the same number as RTS_LABELS */

/* direct: overlay_key -> the droplet it was learnt on, from the outer source or RTS. Written by transit XDP; the
 * agent deletes. */
struct direct_path {
	struct address host;
	__u64 flags;
	__u64 confirmed_ns;   /* CLOCK_MONOTONIC_COARSE of the last confirmation, for dropletctl */
	__u64 confirmed_tick; /* likewise in ticks of the kernel, from which programs compute its age */
};

#define GENERATION_NEXT_HOPS 0
#define GENERATION_ENDPOINTS 1
#define GENERATION_PATHS     2
#define GENERATIONS	     3

/*
 * generations: GENERATION_* -> a number that never returns to an earlier value. Changes after an entry of `next_hops`,
 * `endpoints` or `direct` was changed or removed, and so invalidates all copies in the caches below; lib/cache.h.
 * Written by the agent, and that of `direct` also by transit XDP. Each has a cache line of its own.
 */
struct generation {
	__u64 number;
	__u64 pad[7];
};

/* The sizes of the caches are powers of 2. The kernel allows 32 KiB for a value of a per-CPU map. */
#define CACHED_PATHS_BITS 9
#define CACHED_HOPS_BITS  8
#define CACHED_SLOTS_BITS 10
#define CACHED_PATHS	  (1 << CACHED_PATHS_BITS)
#define CACHED_HOPS	  (1 << CACHED_HOPS_BITS)
#define CACHED_SLOTS	  (1 << CACHED_SLOTS_BITS)

struct cached_path {
	struct overlay_key key;
	__u32 flags;
	struct address host;
	__u64 generation;
	__u64 expires_tick; /* CACHE_LIFETIME after the path was confirmed */
};

/* path_caches: 0 -> copies of entries in `direct`, by a hash of their keys; per CPU. Written by programs. */
struct path_cache {
	struct cached_path path[CACHED_PATHS];
};

struct cached_hop {
	struct next_hop_key key;
	struct next_hop hop;
	__u64 generation;
	__u64 expires_tick; /* CACHE_LIFETIME after it was copied */
};

/* hop_caches: 0 -> copies of entries in `next_hops`, by a hash of their keys; per CPU. Written by programs. */
struct hop_cache {
	struct cached_hop hop[CACHED_HOPS];
};

struct cached_slot {
	__u64 generation;
	__u64 expires_tick; /* CACHE_LIFETIME after it was copied */
	__u32 slot;	    /* with CACHED_IPV6 if it is that of an IPv6 address */
	__u32 pad;
};

#define CACHED_IPV6 0x80000000U

/* slot_caches: 0 -> slots of local endpoints, by a hash of their keys in `endpoints`; per CPU. By transit XDP. */
struct slot_cache {
	struct cached_slot slot[CACHED_SLOTS];
};

/* A local endpoint and the address that it sends to. */
struct detour_key {
	struct address from;
	struct overlay_key to;
};

/*
 * detours: detour_key -> which bouncer or divider replaces the first choice, which misdirected packets: it sent them to
 * a host without their destination. Written by programs.
 */
struct detour {
	struct address misdirected_by; /* the droplet that misdirected the last returned packet, for dropletctl */
	__u64 attempt;		       /* added to the hash in select_member(), route.h */
	__u64 tick;		       /* when a packet was last returned */
};

/* A fragmented packet of a local endpoint. */
struct fragment_key {
	__u32 slot;
	__be32 identity;
	struct address to;
	__u32 protocol;
};

/* fragments: fragment_key -> hash of the flow, from the first fragment, which has ports. Written by programs. */
struct fragment {
	__u32 flow;
};

/* A token bucket of lib/ratelimit.h: zeros are a full one. */
struct token_bucket {
	__u64 tick; /* the kernel's when tokens were last added */
	__u64 used; /* tokens that are missing until the bucket is full */
};

/* icmp_ratelimit: hash of a receiver -> its token bucket for ICMP errors and TCP resets. Written by programs. */

/* outcomes: enum outcome -> per CPU. */
struct traffic {
	__u64 packets;
	__u64 bytes;
};

#define STAGE_POINTS  6
#define STAGE_SLOTS   8	 /* functions at a point */
#define STAGE_REASONS 16 /* reasons of its own that a function may drop packets for */
#define STAGE_WORDS   10 /* of struct stage in stage.h, without its pointers */

/* function_counters: (point - 1) * STAGE_SLOTS + slot -> per CPU. Written by programs; the agent clears. */
struct function_traffic {
	struct traffic received;
	__u64 went_on; /* packets by verdict; together they are those received */
	__u64 dropped;
	__u64 sent_back;
	__u64 sent_to;
	__u64 handed_over; /* went on for the next process that takes only such packets */
	__u64 faults;	   /* verdicts that are invalid there; besides, packets that went on and are unusable */
	__u64 samples;	   /* frames whose time was measured */
	__u64 sampled_ns;  /* the sum of these times */
};

/* function_reasons: (index in function_counters) * STAGE_REASONS + reason -> packets; per CPU. Written by programs. */

/* endpoint_counters: slot -> per CPU. Bytes are those of the inner Ethernet frame. */
struct endpoint_traffic {
	struct traffic sent;	  /* sent by the endpoint and forwarded */
	struct traffic direct;	  /* of those, straight to the host of the destination, or on this host */
	struct traffic delivered; /* delivered to the endpoint */
	struct traffic dropped;	  /* sent by the endpoint and dropped */
};

/* The headers of an inner packet. */
struct packet {
	struct overlay_key from __attribute__((aligned(8)));
	struct overlay_key to __attribute__((aligned(8)));
	__u16 length; /* from its Ethernet header to the end of the IP packet, without padding */
	__u16 kind;   /* ETH_P_IP or ETH_P_IPV6 in host order; 0 if it is neither */
	__u8 tos;
	__u8 ttl;
	__u8 pad[6];
};

#define TUNNEL_RTS	   1U  /* has an RTS option: sent to or by a bouncer or divider */
#define TUNNEL_INVALIDATES 2U  /* has an invalidate option: returned, its endpoint has left */
#define TUNNEL_VXLAN	   4U  /* VXLAN instead of Geneve */
#define TUNNEL_CONTROL	   8U  /* a Geneve control packet */
#define TUNNEL_PROBE	   16U /* a control packet with a probe request */
#define TUNNEL_NO_CHECKSUM 32U /* received over IPv6 without a UDP checksum */

#define TUNNEL_MISDIRECTED 64U /* has a misdirected option: returned, a bouncer sent it to the wrong host */

#define TUNNEL_RETURNED (TUNNEL_INVALIDATES | TUNNEL_MISDIRECTED) /* to the droplet of its sender */

/* Flags of the RTS option. */
#define RTS_PINNED   1U	 /* the sender's network reaches others only through a divider */
#define RTS_DIVIDED  2U	 /* the packet has passed a divider */
#define RTS_UNLEARNT 4U	 /* do not learn the sender: it is a gateway, or on a VXLAN peer */
#define RTS_VXLAN    8U	 /* the origin understands VXLAN only */
#define RTS_LABELS   16U /* the sender's network asks for labels; without an RTS option from the label option */

/* The outer headers of a received tunnel packet, or of one to be sent. */
struct tunnel {
	struct next_hop_key peer; /* the remote droplet; to send: and the interface */
	__u32 vni;
	struct address origin; /* droplet of the sender: from RTS, else the peer; misdirected: which droplet did it */
	__u16 headers;	       /* bytes in front of the inner frame as received; 0 if there are none */
	__u16 length;	       /* bytes of the inner frame */
	__u16 probe;	       /* offset of the probe option in the frame */
	__u16 mtu;	       /* the endpoint's MTU on this path, for ICMP errors */
	__be16 source_port;
	__u8 tos;
	__u8 ttl;
	__u8 bounces;
	__u8 flags;    /* TUNNEL_* */
	__u8 rts;      /* RTS_* */
	__u8 attempt;  /* which bouncer or divider to select, see select_member() */
	__u16 longest; /* tc: bytes of the longest packet that the inner frame will be cut into */
	__u8 pad[2];
	__u32 label; /* of the sender: received, or to be sent if the receiver asks; 0: none */
} __attribute__((aligned(8)));

/* The transport header of an inner packet. */
struct transport {
	__u32 offset; /* from the Ethernet header */
	__u32 protocol;
	__be32 identity; /* identification of the fragmented packet */
	__u8 fragment;	 /* 1: any fragment */
	__u8 later;	 /* 1: a fragment other than the first, without ports */
	__u8 extended;	 /* 1: follows extension headers */
	__u8 parsed;	 /* 1: all of this is valid; 0: too many or malformed extension headers */
};

/* The outer IP header, of either family. */
struct outer {
	struct address to __attribute__((aligned(8)));
	__u64 pseudo;	  /* sum of the UDP pseudo-header without the length */
	__u16 udp;	  /* offset of the UDP header in the frame */
	__u16 ip_payload; /* bytes from the UDP header on */
	__be16 vlan;
	__u8 summed; /* 1: UDP has a checksum */
	__u8 unsure; /* 1: it is wrong, unless a device is to complete the inner checksum that it covers */
};

/* Offsets of our Geneve options in the frame; 0 for those that are absent. */
struct options {
	__u16 rts;
	__u16 probe;
	__u16 returned; /* invalidate or misdirected */
	__u16 label;	/* of either type */
};

/*
 * frame_states: 0 -> the state of the frame that this CPU processes; per CPU. Written by programs.
 *
 * The entry program fills it while it parses the frame, and before a tail call stores the called program in `called`.
 * The called program clears `called` before it uses the rest, so a state is never used twice or for another frame: a
 * CPU runs all programs of one frame before it starts the next frame.
 *
 * new_state() in state.h sets `called` and `length`, and clears what some paths read without writing it first:
 * packet.length and packet.kind, which say whether there is an IP packet, `tunnel` from `headers` to `attempt`, and
 * `sent`. The rest still holds values of the previous frame, and every path writes it before reading it:
 *
 * - packet.from, to, tos and ttl: read_packet(), if it returns CONTINUE; from and to also by arp_from_endpoint();
 * - tunnel.peer.address, vni and origin: for a frame from the underlay read_outer() and parse_udp(), or they drop it;
 *   for a frame of an endpoint whatever chooses the destination (peer.address), adds the RTS option (origin), and the
 *   entry program (vni). tunnel.peer.interface: find_hop();
 * - tunnel.label: parse_geneve(), parse_vxlan() and set_egress();
 * - transport: find_transport(), which runs for every IP packet. Without one packet.length is 0, and nothing is done
 *   with what transit errors reads here;
 * - tunnel.longest and packets: begin_egress(), parse_inner() and new_state();
 * - reason and receiver: the caller; local and received_flags: transit XDP once it knows the local droplet;
 * - chain to stage: call_chain(), and what a point's caller sets for the program that continues after the point;
 * - outer and options: the parser of frames from the underlay.
 *
 * tests/bpf/test_tail_calls.py and the random frames fill it with garbage before each frame.
 */
struct frame_state {
	struct packet packet;
	struct tunnel tunnel;
	struct transport transport;
	__u32 called;	     /* 1 + the slot of the called program; 0: none */
	__u32 length;	     /* bytes of the frame as received, for the counters */
	__u32 reason;	     /* transit errors: an enum outcome, why the packet cannot be delivered */
	__u32 receiver;	     /* transit XDP: ifindex of the local endpoint that receives it */
	__u16 local;	     /* from a tunnel: index of the local droplet that received it */
	__u8 received_flags; /* from a tunnel: tunnel.flags as parsed */
	__u8 pad[3];
	__u16 packets; /* tc: how many packets the frame stands for */
	struct outer outer;
	struct options options;
	__u32 chain;	  /* stages: the functions that are still to run */
	__u32 outcome;	  /* stages: an enum outcome, that of the frame so far */
	__u32 flow;	  /* from_endpoint: hash of the flow */
	__u32 changed;	  /* stages: 1 + the index of the last function that changed the packet; 0: none did */
	__u32 sends;	  /* stages: an enum stage_verdict for the program that continues; 0: go on */
	__u8 on_path;	  /* from a tunnel: the inner sender is known to be at the peer */
	__u8 processed;	  /* a process had it: its length may have changed; at dropped, it is counted */
	__u8 sent;	  /* a function endpoint sends it: rx_ifindex stands for that endpoint */
	__u8 handed;	  /* stages: for the next process of the chain that takes only packets handed over */
	__u32 rx_ifindex; /* handed over to a process: where the frame was received */
	__u32 answers; /* handed over to a process: how many answers it may still give, more than 1 for GSO packets */
	__u64 stage[STAGE_WORDS]; /* stages: struct stage behind its pointers, see lib/stages.h */
};

#define PROCESS_SERVED	   1U /* a process serves the sockets */
#define PROCESS_ANSWERS_TC 2U /* its answers continue at tc, else at XDP */
#define PROCESS_HANDED	   4U /* takes only packets that a program of the chain handed over */
#define PROCESS_QUEUES	   16 /* queues of a process at most; a power of two */
#define PROCESS_REASONS	   2  /* words of 64 bits that hold a bit for each outcome */

/*
 * function_processes: index of a function in the jump tables -> the process that is the function, if it is one. Written
 * by the agent.
 */
struct function_process {
	__u32 ifindex[PROCESS_QUEUES]; /* of `near`, the end of the veth pair to which packets of a queue are redirected
					*/
	__u32 lane;		       /* the entry of its first queue in the function's XSKMAP; the others follow */
	__u32 longest;		       /* bytes of the longest packet that its frames hold */
	__u32 flags;
	__u32 queues;			/* 1 to PROCESS_QUEUES */
	__u64 reasons[PROCESS_REASONS]; /* at dropped: a bit for each enum outcome that it is to see */
};

/* What a process answered, on its way from XDP to tc: in the space in front of the frame for metadata. */
struct function_answer {
	__u64 token;
	__u8 verdict;
	__u8 reason;
	__u8 pad[2];
	__u32 slot; /* without a token: of the function endpoint that sends the packet */
	struct address target;
};

/* scratches: 0 -> bytes that a program of tc moves within a frame; per CPU. Written by programs. */
struct scratch {
	__u8 bytes[2048];
};

#define WATCHED_PROGRAM	  1U /* the kernel's id of one of our programs */
#define WATCHED_INTERFACE 2U /* the ifindex of an interface that receives frames from the underlay */

/* watched: our programs and interfaces, for the programs of entry/lost_frames.h. The value is always 1. Written by the
 * agent. */
struct watched_key {
	__u32 kind;
	__u32 id;
};

struct watched_mark {
	__u32 present;
};

/* kernel_layouts: 0 -> offsets in the running kernel's structs. Absent if net_cookie is 0. Written by the agent. */
struct kernel_layout {
	__u64 cookie;	      /* of the agent's network namespace: SO_NETNS_COOKIE, socket(7) */
	__u32 device_ifindex; /* in struct net_device */
	__u32 device_net;     /* likewise: nd_net */
	__u32 net_cookie;     /* in struct net */
	__u32 program_aux;    /* in struct bpf_prog */
	__u32 aux_id;	      /* in struct bpf_prog_aux */
	__u32 pad;
};

#define FAILURE_REDIRECT  1U /* the kernel refused the redirect */
#define FAILURE_TRANSMIT  2U /* the device did not accept the frame */
#define FAILURE_EXCEPTION 3U /* a device did not accept it in generic mode, or the verdict was invalid */

/* failures: why the kernel dropped a frame after our verdict -> count; per CPU. Written by programs. */
struct failure_key {
	__u32 kind;
	__u32 error;   /* a positive errno; 0: the device accepted fewer frames than it got, without a reason */
	__u32 ifindex; /* of the target device */
};

struct failure_count {
	__u64 frames;
};

#endif
