/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef DROPLET_CONSTANTS_H
#define DROPLET_CONSTANTS_H

/*
 * Compile-time features, set by agent/core/model/features.py: what a host does not use costs nothing there. The
 * defaults enable everything but functions.
 */
#ifndef GENEVE_PORT
#define GENEVE_PORT 6081
#endif
#ifndef VXLAN_PORT
#define VXLAN_PORT 4789 /* 0: no VXLAN */
#endif
#ifndef INNER_IPV6
#define INNER_IPV6 1
#endif
#ifndef OUTER_IPV4
#define OUTER_IPV4 1
#endif
#ifndef OUTER_IPV6
#define OUTER_IPV6 1
#endif
#ifndef STAGES
#define STAGES 0 /* stage points for users' functions: lib/stages.h */
#endif
#ifndef VLAN_TAGS
#define VLAN_TAGS 1
#endif

#define GATEWAY_MAC {0x02, 0xd2, 0x01, 0xe7, 0x00, 0x01} /* the same on every host; agent/core/model/map_layout.py */

/* The ifindex of an endpoint's interface is this plus its slot; agent/core/model/endpoint_slots.py */
#define IFINDEX_BASE 0x40000000U

/* That of the pairs of functions in processes is this or more; agent/core/functions/processes.py */
#define PROCESS_IFINDEX 0x60000000U
#define MAX_ANSWERS	0x10000U /* above the pieces of any GSO packet */

#define NEW_TTL	    64
#define MAX_BOUNCES 4 /* ends a loop between bouncers whose maps disagree */

/* Times are in ticks of the kernel; agent/datapath/bpf/compiler.py defines TICKS_PER_SECOND. */
#define DIRECT_LIFETIME (10LL * TICKS_PER_SECOND)
#define DIRECT_RENEW	(1LL * TICKS_PER_SECOND) /* how often a path in use is confirmed in the map */
#define CACHE_LIFETIME	DIRECT_RENEW /* of a copy in a per-CPU cache; a path is confirmed before its copy expires */

#define DETOUR_LIFETIME (30LL * TICKS_PER_SECOND) /* after which a bouncer that misdirected a packet is tried again */
#define MAX_ATTEMPTS	16 /* bouncers and dividers tried for one packet, which returns to its droplet after each */

#define EPHEMERAL_FIRST 49152 /* source ports of tunnels: 49152 to 65535 (RFC 8926 section 3.3, RFC 6335) */
#define EPHEMERAL_MASK	16383

#define ICMP_RATELIMIT_BUCKETS 4096
/* ICMP errors and TCP resets to the senders of one bucket (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4). */
#define ICMP_ERRORS_PER_SECOND 50
#define ICMP_ERRORS_BURST      50

/* A mask above the longest headers: 18 of Ethernet, 40 of IPv6, 8 of UDP, 8 of Geneve, 252 of options. */
#define MAX_HEADERS   0x1ff
#define FIRST_HEADERS 0x7f /* above those in front of UDP */

#define TAG_REMOVED 0x10000 /* a VLAN tag was in the frame: removed_tag() of a hook */
#define VLAN_ID	    0x0fff  /* the bits of a tag with its VLAN; all of them set is reserved (IEEE 802.1Q) */

#define ECN_MASK 3
#define ECN_ECT1 1
#define ECN_ECT0 2
#define ECN_CE	 3

#define FRAGMENT_OFFSET 0x1fff
#define FRAGMENT_MORE	0x2000
#define FRAGMENT_NEVER	0x4000

#endif
