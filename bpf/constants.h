/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef DROPLET_CONSTANTS_H
#define DROPLET_CONSTANTS_H

#define GATEWAY_MAC {0x02, 0xd2, 0x01, 0xe7, 0x00, 0x01} /* the same on every host; agent/core/layout.py */

#define NEW_TTL		   64
#define MAX_BOUNCES	   4 /* ends a loop between bouncers whose maps disagree */
#define DIRECT_LIFETIME_NS 10000000000LL
#define DIRECT_RENEW_NS	   1000000000LL /* a path in use is written once in this time, not at every packet */

#define EPHEMERAL_FIRST 49152 /* source ports of tunnels: 49152 to 65535 (RFC 8926 section 3.3, RFC 6335) */
#define EPHEMERAL_MASK	16383

#define ECN_MASK 3
#define ECN_ECT1 1
#define ECN_ECT0 2
#define ECN_CE	 3

#define FRAGMENT_OFFSET 0x1fff
#define FRAGMENT_MORE	0x2000
#define FRAGMENT_NEVER	0x4000

#endif
