/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How a packet's way through our programs can end: the one enum, which doubles as index into the map `outcomes`.
 * tools/generate_outcomes.py writes agent/datapath/bpf/outcomes.py from it. Every packet is counted once under RECEIVED
 * and once under one of the others, so the sums are equal.
 */
#ifndef DROPLET_OUTCOMES_H
#define DROPLET_OUTCOMES_H

#define OUTCOMES_RECEIVED(X)                                                                                           \
	X(RECEIVED_FROM_SUBSTRATE, "Came in on the droplet's interface.")                                              \
	X(RECEIVED_FROM_ENDPOINT, "Was sent by an endpoint of this droplet.")

#define OUTCOMES_PASSED(X) X(PASSED, "Was not for the overlay and went on to the host's network stack.")

#define OUTCOMES_ANSWERED(X)                                                                                           \
	X(ARP_ANSWERED, "An endpoint's ARP request, answered on the spot.")                                            \
	X(ND_ANSWERED, "An endpoint's neighbour solicitation, answered on the spot.")                                  \
	X(GATEWAY_ECHO, "An endpoint's echo request to its gateway, answered on the spot.")                            \
	X(TOO_BIG_TOLD, "The endpoint's packet did not fit, which an ICMP error told it.")                             \
	X(TTL_TOLD, "The endpoint's packet used up its time to live, which an ICMP error told it.")                    \
	X(PROBE_REFLECTED, "Another droplet's probe of the path, sent back.")                                          \
	X(UNREACHABLE_TOLD, "Nothing leads to where the endpoint's packet was to go, which an ICMP error told it.")    \
	X(GATEWAY_REFUSED, "The endpoint asked its gateway for a service: refused by a TCP reset or an ICMP error.")

#define OUTCOMES_FORWARDED(X)                                                                                          \
	X(DELIVERED, "Came through a tunnel and was handed to its endpoint.")                                          \
	X(DELIVERED_SAME_HOST, "Was handed from one endpoint of this droplet to another.")                             \
	X(SENT_DIRECT, "Was sent by an endpoint straight to its destination's droplet.")                               \
	X(SENT_TO_BOUNCER, "Was sent by an endpoint to a bouncer of its network.")                                     \
	X(SENT_TO_DIVIDER, "Was sent by an endpoint to a divider of its VPC, as a network's routing asks for.")        \
	X(BOUNCED, "Was sent on by this bouncer to its destination's droplet.")                                        \
	X(HANDED_TO_BOUNCER, "Was sent on by this divider to a bouncer of its destination's network.")                 \
	X(HANDED_TO_DIVIDER, "Was sent on by this bouncer to a divider of the VPC.")                                   \
	X(RETURNED, "Came straight for an endpoint that is not here and went back to its sender's droplet.")           \
	X(REROUTED, "Came back because its endpoint had left, and was sent anew.")                                     \
	X(ARP_ANSWERED_REMOTE, "An ARP request through a tunnel, answered to the droplet it came from.")               \
	X(ND_ANSWERED_REMOTE, "A neighbour solicitation through a tunnel, answered to the droplet it came from.")      \
	X(TOO_BIG_TOLD_REMOTE, "Came through a tunnel and did not fit further, which an ICMP error told its sender.")  \
	X(UNREACHABLE_TOLD_REMOTE, "Came through a tunnel and leads nowhere, which an ICMP error told its sender.")    \
	X(MISDIRECTED, "A bouncer or divider with an old map sent it here; returned to its sender's droplet.")

#define OUTCOMES_DROPPED(X)                                                                                            \
	X(UNKNOWN_INTERFACE, "Came from an interface that belongs to no endpoint.")                                    \
	X(SOURCE_MAC, "The endpoint's frame had another Ethernet source than the endpoint's.")                         \
	X(SOURCE_ADDRESS, "The endpoint's packet had another source address than the endpoint's.")                     \
	X(SOURCE_ARP, "The endpoint's ARP packet had another sender than the endpoint.")                               \
	X(SOURCE_ND, "The endpoint's neighbour solicitation had another sender than the endpoint.")                    \
	X(ARP_OWN_ADDRESS, "The endpoint announced or probed its own address, which needs no answer.")                 \
	X(ND_OWN_ADDRESS, "An endpoint probed its own or a link-local address, which needs no answer.")                \
	X(ARP_OPCODE, "The ARP packet was not of an operation that the overlay carries.")                              \
	X(ND_TYPE, "The neighbour discovery message was not of a type that the overlay carries.")                      \
	X(MALFORMED_ARP, "The ARP packet was cut short or not of Ethernet and IPv4.")                                  \
	X(MALFORMED_ND, "The neighbour solicitation was not as RFC 4861 section 7.1.1 asks for.")                      \
	X(INNER_PROTOCOL, "The inner frame was neither IPv4 nor IPv6 nor ARP.")                                        \
	X(MALFORMED_INNER, "The inner packet's lengths, version or addresses were wrong.")                             \
	X(EXTENSION_HEADERS, "An endpoint's or VXLAN peer's packet had more extension headers than are looked at.")    \
	X(MULTICAST, "The packet went to a group's or everybody's IP or Ethernet address.")                            \
	X(LINK_LOCAL, "The endpoint's packet went to a link-local address.")                                           \
	X(INNER_TTL, "The packet used up its time to live, and no ICMP error was due.")                                \
	X(TOO_BIG, "The packet did not fit, and no ICMP error was due.")                                               \
	X(TO_GATEWAY, "The endpoint sent its gateway what it neither answers nor refuses, or too many of them.")       \
	X(NO_PROGRAM, "A program to be called was not in the program array, or was left no state.")                    \
	X(NO_LOCAL_DROPLET, "The endpoint's droplet was not configured yet.")                                          \
	X(NO_NETWORK, "No network of the VPC holds the address.")                                                      \
	X(NO_BOUNCER, "The network has no bouncer.")                                                                   \
	X(NO_DIVIDER, "The VPC has no divider.")                                                                       \
	X(NO_VPC, "The VPC is not known on this droplet.")                                                             \
	X(NO_ENDPOINT, "The network's bouncer knows no endpoint with the address.")                                    \
	X(NOT_HERE, "The packet concerned an endpoint that is not on this droplet, which has no role for it.")         \
	X(NEXT_HOP_UNRESOLVED, "The Ethernet address that leads to the other droplet was not known.")                  \
	X(OTHER_FAMILY, "The other droplet has an address of another family than this one.")                           \
	X(NO_HEADROOM, "The frame had no room for the headers in front of it.")                                        \
	X(OUTER_FRAGMENT, "The tunnel packet was fragmented.")                                                         \
	X(OUTER_OPTIONS, "The tunnel packet had IPv4 options or IPv6 extension headers.")                              \
	X(OUTER_CHECKSUM, "A checksum of the tunnel packet was wrong.")                                                \
	X(NO_CHECKSUM, "The tunnel packet had no UDP checksum over IPv6, which neither end is configured for.")        \
	X(OUTER_TTL, "The tunnel packet was to be sent on but its time to live was used up.")                          \
	X(MALFORMED_OUTER, "The tunnel packet's IP and UDP lengths did not add up.")                                   \
	X(UNKNOWN_DROPLET, "The tunnel packet came from an address that is no known droplet.")                         \
	X(UNKNOWN_ORIGIN, "The return-to-sender option named an address that is no known droplet.")                    \
	X(GENEVE_VERSION, "The Geneve version was not 0.")                                                             \
	X(GENEVE_CONTROL, "A Geneve control packet that was no probe.")                                                \
	X(GENEVE_PROTOCOL, "The Geneve payload was not Ethernet.")                                                     \
	X(MALFORMED_GENEVE, "The Geneve options' lengths did not add up.")                                             \
	X(CRITICAL_OPTION, "An unknown Geneve option was marked critical.")                                            \
	X(VXLAN_FLAGS, "The VXLAN packet was not marked as having a VNI.")                                             \
	X(TOO_MANY_BOUNCES, "The packet went from bouncer to bouncer without an end.")                                 \
	X(ECN_NOT_CAPABLE, "Congestion was marked on the tunnel packet of a flow that cannot signal it.")              \
	X(SOURCE_ELSEWHERE, "The tunnel packet's source is of this host, or not its VXLAN peer's.")                    \
	X(ALL_MISDIRECTED, "Every bouncer and divider that was tried sent it to a host without its endpoint.")

#define ENUMERATOR(name, sentence) name,

/* clang-format off */
enum outcome {
	OUTCOMES_RECEIVED(ENUMERATOR)
	OUTCOMES_PASSED(ENUMERATOR)
	OUTCOMES_ANSWERED(ENUMERATOR)
	OUTCOMES_FORWARDED(ENUMERATOR)
	OUTCOMES_DROPPED(ENUMERATOR)
	OUTCOME_COUNT,
	GO_ON, /* a step's answer: nothing decided yet */
	DOES_NOT_FIT, /* a step's answer: tell the sender by ICMP */
	ASKS, /* a step's answer: a question for an address that is answered elsewhere */
	IS_REFUSED, /* a step's answer: tell the sender that the gateway has no such service */

	/* where the kinds begin */
	FIRST_ANSWERED = ARP_ANSWERED,
	FIRST_FORWARDED = DELIVERED,
	FIRST_SENT = SENT_DIRECT,
	FIRST_DROPPED = UNKNOWN_INTERFACE,
};
/* clang-format on */

#endif
