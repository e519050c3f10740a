/* SPDX-License-Identifier: GPL-2.0-only */
/* A tunnel packet's headers as the rest of the code knows them: read from one that came in, or for one to be sent. */
#ifndef DROPLET_TUNNEL_H
#define DROPLET_TUNNEL_H

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

/* A mask above the longest headers: 18 of Ethernet, 40 of IPv6, 8 of UDP, 8 of Geneve, 252 of options. */
#define MAX_HEADERS   0x1ff
#define FIRST_HEADERS 0x7f /* above those in front of UDP */

#endif
