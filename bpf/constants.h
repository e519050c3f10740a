/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef DROPLET_CONSTANTS_H
#define DROPLET_CONSTANTS_H

/*
 * What the programs are compiled for: agent/core/model/features.py gives these, and what a host does not use costs
 * nothing there. The defaults are everything.
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
#ifndef VLAN_TAGS
#define VLAN_TAGS 1
#endif

#define GATEWAY_MAC {0x02, 0xd2, 0x01, 0xe7, 0x00, 0x01} /* the same on every host; agent/core/model/map_layout.py */

/* Interfaces of endpoints are numbered from here, by slot; agent/core/plan/render.py */
#define IFINDEX_BASE 0x40000000U

#define NEW_TTL	    64
#define MAX_BOUNCES 4 /* ends a loop between bouncers whose maps disagree */

/* In the kernel's ticks, of which agent/datapath/bpf/compiler.py says how many are in a second. */
#define DIRECT_LIFETIME (10LL * TICKS_PER_SECOND)
#define DIRECT_RENEW	(1LL * TICKS_PER_SECOND) /* a path in use is written once in this time, not at every packet */

#define DETOUR_LIFETIME (30LL * TICKS_PER_SECOND) /* a bouncer that misdirected a packet is tried again after it */
#define MAX_ATTEMPTS	16 /* ways that are tried for one packet, each with a turn back to the sender's droplet */

#define EPHEMERAL_FIRST 49152 /* source ports of tunnels: 49152 to 65535 (RFC 8926 section 3.3, RFC 6335) */
#define EPHEMERAL_MASK	16383

#define TOLD_BUCKETS 4096
#define TOLD_PER_SECOND                                                                                                \
	50 /* ICMP errors to the receivers of one bucket (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4) */

/* A mask above the longest headers: 18 of Ethernet, 40 of IPv6, 8 of UDP, 8 of Geneve, 252 of options. */
#define MAX_HEADERS   0x1ff
#define FIRST_HEADERS 0x7f /* above those in front of UDP */

#define ECN_MASK 3
#define ECN_ECT1 1
#define ECN_ECT0 2
#define ECN_CE	 3

#define FRAGMENT_OFFSET 0x1fff
#define FRAGMENT_MORE	0x2000
#define FRAGMENT_NEVER	0x4000

#endif
