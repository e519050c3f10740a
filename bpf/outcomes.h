/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What can happen to a packet: the enum is also the index into the map `outcomes`. tools/generate_outcomes.py writes
 * agent/datapath/bpf/outcomes.py from it. Every packet is counted once under RECEIVED and once under one of the others,
 * so the sums are equal. A GSO packet counts as its segments.
 */
#ifndef DROPLET_OUTCOMES_H
#define DROPLET_OUTCOMES_H

#define OUTCOMES_RECEIVED(X)                                                                                           \
	X(RECEIVED_FROM_UNDERLAY, "Received on an underlay interface of this host.")                                   \
	X(RECEIVED_FROM_ENDPOINT, "Received from an endpoint of this host.")                                           \
	X(RECEIVED_FROM_FUNCTION, "Answered by a function's process.")

#define OUTCOMES_PASSED(X) X(PASSED, "Not for the overlay; passed to the host's network stack.")

#define OUTCOMES_ANSWERED(X)                                                                                           \
	X(ARP_ANSWERED, "Answered an endpoint's ARP request.")                                                         \
	X(ND_ANSWERED, "Answered an endpoint's neighbour solicitation.")                                               \
	X(GATEWAY_ECHO, "Answered an endpoint's echo request to its gateway.")                                         \
	X(ICMP_TOO_BIG_SENT, "Exceeded the MTU; answered with an ICMP error.")                                         \
	X(ICMP_TTL_EXCEEDED_SENT, "No time to live left; answered with an ICMP error.")                                \
	X(PROBE_REFLECTED, "Reflected a path probe of another droplet.")                                               \
	X(ICMP_UNREACHABLE_SENT, "Unreachable destination; answered with an ICMP error.")                              \
	X(GATEWAY_REFUSED, "Sent to the gateway, which has no services; answered with a TCP reset or ICMP error.")     \
	X(FUNCTION_SENT_BACK, "A function sent it back to where it came from.")

#define OUTCOMES_FORWARDED(X)                                                                                          \
	X(DELIVERED, "Received from a tunnel and delivered to its endpoint.")                                          \
	X(DELIVERED_SAME_HOST, "Delivered from one endpoint of this host to another.")                                 \
	X(FUNCTION_DELIVERED, "A function sent it to another endpoint of this host.")                                  \
	X(FUNCTION_HANDED_OVER, "Handed over to a function's process.")                                                \
	X(SENT_DIRECT, "Sent straight to the destination's droplet.")                                                  \
	X(SENT_TO_BOUNCER, "Sent to a bouncer of the endpoint's network.")                                             \
	X(SENT_TO_DIVIDER, "Sent to a divider of the endpoint's VPC, as required by a network's routing.")             \
	X(BOUNCED, "Forwarded by this bouncer to the destination's droplet.")                                          \
	X(HANDED_TO_BOUNCER, "Forwarded by this divider to a bouncer of the destination's network.")                   \
	X(HANDED_TO_DIVIDER, "Forwarded by this bouncer to a divider of the VPC.")                                     \
	X(RETURNED, "Sent straight here, but the endpoint is elsewhere; returned to the sender's droplet.")            \
	X(REROUTED, "Returned by another droplet because its endpoint had left; sent again.")                          \
	X(FUNCTION_SENT_BACK_REMOTE, "A function sent it back through the tunnel that it came from.")                  \
	X(ARP_ANSWERED_REMOTE, "Answered an ARP request that another droplet forwarded.")                              \
	X(ND_ANSWERED_REMOTE, "Answered a neighbour solicitation that another droplet forwarded.")                     \
	X(ICMP_TOO_BIG_SENT_REMOTE, "From a tunnel, exceeded the MTU; answered with an ICMP error.")                   \
	X(ICMP_UNREACHABLE_SENT_REMOTE, "From a tunnel, unreachable destination; answered with an ICMP error.")        \
	X(MISDIRECTED, "Sent here by a bouncer or divider with outdated maps; returned to the sender's droplet.")

#define OUTCOMES_DROPPED(X)                                                                                            \
	X(UNKNOWN_INTERFACE, "Received on an interface that belongs to no endpoint.")                                  \
	X(SOURCE_MAC, "The Ethernet source was not the endpoint's.")                                                   \
	X(SOURCE_ADDRESS, "The source address was not the endpoint's.")                                                \
	X(SOURCE_ARP, "The sender in the ARP packet was not the endpoint.")                                            \
	X(SOURCE_ND, "The sender of the neighbour solicitation was not the endpoint.")                                 \
	X(ARP_OWN_ADDRESS, "The endpoint announced or probed its own address by ARP, which needs no answer.")          \
	X(ND_OWN_ADDRESS, "The endpoint probed its own or a link-local address, which needs no answer.")               \
	X(ARP_OPCODE, "The ARP operation is not supported by the overlay.")                                            \
	X(ND_TYPE, "The type of neighbour discovery message is not supported by the overlay.")                         \
	X(MALFORMED_ARP, "The ARP packet was truncated or not for Ethernet and IPv4.")                                 \
	X(MALFORMED_ND, "The neighbour solicitation was invalid by RFC 4861 section 7.1.1.")                           \
	X(INNER_PROTOCOL, "The inner frame was neither IPv4 nor IPv6 nor ARP.")                                        \
	X(MALFORMED_INNER, "The inner packet's lengths, version or addresses were invalid.")                           \
	X(EXTENSION_HEADERS, "A packet of an endpoint or VXLAN peer had more extension headers than are parsed.")      \
	X(MULTICAST, "The destination was a multicast or broadcast address of IP or Ethernet.")                        \
	X(LINK_LOCAL, "The destination was a link-local address.")                                                     \
	X(INNER_TTL, "No time to live left, and no ICMP error was due.")                                               \
	X(TOO_BIG, "Exceeded the MTU, and no ICMP error was due.")                                                     \
	X(TO_GATEWAY, "Sent to the gateway, and not answered: an unsupported ICMP message, or above the rate limit.")  \
	X(NO_PROGRAM, "A tail call failed, or the called program found no state for the frame.")                       \
	X(NO_LOCAL_DROPLET, "The endpoint's droplet was not configured yet.")                                          \
	X(NO_NETWORK, "No network of the VPC contains the address.")                                                   \
	X(NO_BOUNCER, "The network has no bouncer.")                                                                   \
	X(NO_DIVIDER, "The VPC has no divider.")                                                                       \
	X(NO_VPC, "The VPC is unknown on this droplet.")                                                               \
	X(NO_ENDPOINT, "The network's bouncer knows no endpoint with the address.")                                    \
	X(ENDPOINT_NOT_LOCAL, "The endpoint is not on this droplet, which is neither bouncer nor divider for it.")     \
	X(NEXT_HOP_UNRESOLVED, "The Ethernet address of the next hop to the other droplet was unknown.")               \
	X(OTHER_FAMILY, "The other droplet's address is of another family than this one's.")                           \
	X(NO_HEADROOM, "The frame had too little headroom for the outer headers.")                                     \
	X(OUTER_FRAGMENT, "The tunnel packet was fragmented.")                                                         \
	X(OUTER_OPTIONS, "The tunnel packet had IPv4 options or IPv6 extension headers.")                              \
	X(OUTER_CHECKSUM, "A checksum of the tunnel packet was wrong.")                                                \
	X(NO_CHECKSUM, "The tunnel packet had no UDP checksum over IPv6, and neither droplet allows that.")            \
	X(OUTER_TTL, "The tunnel packet had no time to live left to be forwarded.")                                    \
	X(MALFORMED_OUTER, "The tunnel packet's IP and UDP lengths were inconsistent.")                                \
	X(UNKNOWN_DROPLET, "The source of the tunnel packet is not a known droplet.")                                  \
	X(UNKNOWN_ORIGIN, "The return-to-sender option named an address that is not a known droplet.")                 \
	X(GENEVE_VERSION, "The Geneve version was not 0.")                                                             \
	X(GENEVE_CONTROL, "A Geneve control packet other than a probe.")                                               \
	X(GENEVE_PROTOCOL, "The Geneve payload was not Ethernet.")                                                     \
	X(MALFORMED_GENEVE, "The lengths of the Geneve options were inconsistent.")                                    \
	X(CRITICAL_OPTION, "An unknown Geneve option was marked critical.")                                            \
	X(VXLAN_FLAGS, "The VXLAN header had no VNI.")                                                                 \
	X(TOO_MANY_BOUNCES, "Forwarded between bouncers too often: their maps disagree.")                              \
	X(ECN_NOT_CAPABLE, "The tunnel packet had a congestion mark, and the inner packet does not support ECN.")      \
	X(SOURCE_ELSEWHERE, "The inner source is an endpoint of this host, or not on the VXLAN peer.")                 \
	X(ALL_MISDIRECTED, "Every bouncer and divider that was tried sent it to a host without the endpoint.")         \
	X(GSO_PACKET, "A GSO packet that no tunnel carries: not TCP or UDP, or UDP checksums are required.")           \
	X(FUNCTION_DROPPED, "A function dropped it.")                                                                  \
	X(FUNCTION_FAULT, "The verdict of a function was invalid, or the packet that it changed is unusable.")         \
	X(FUNCTION_TARGET, "A function sent it to an address that no endpoint of the VPC has on this host.")           \
	X(FUNCTION_ANSWER, "A function's process answered late, twice, or with malformed metadata.")                   \
	X(NO_FUNCTION, "For a function endpoint, and none of its functions answered it, sent it on or took it.")

#define ENUMERATOR(name, sentence) name,

/* clang-format off */
enum outcome {
	OUTCOMES_RECEIVED(ENUMERATOR)
	OUTCOMES_PASSED(ENUMERATOR)
	OUTCOMES_ANSWERED(ENUMERATOR)
	OUTCOMES_FORWARDED(ENUMERATOR)
	OUTCOMES_DROPPED(ENUMERATOR)
	OUTCOME_COUNT,
	CONTINUE, /* returned by a step: no outcome yet */
	EXCEEDS_MTU, /* returned by a step: answer with an ICMP error */
	RESOLVE_REMOTELY, /* returned by a step: an ARP request or solicitation that another droplet answers */
	NO_SERVICE, /* returned by a step: answer that the gateway has no such service */
	RUN_FUNCTIONS, /* returned by a step: a stage point with functions for the packet */
	OUTCOME_END,

	/* the first of each kind */
	FIRST_ANSWERED = ARP_ANSWERED,
	FIRST_FORWARDED = DELIVERED,
	FIRST_SENT = SENT_DIRECT,
	FIRST_DROPPED = UNKNOWN_INTERFACE,
};
/* clang-format on */
_Static_assert(OUTCOME_END <= 256, "forgotten() in lib/verifier.h keeps one byte of an outcome");

#endif
