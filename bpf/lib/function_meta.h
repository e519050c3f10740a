/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The metadata in front of a packet on its way to a network function in a process and back, in host byte order.
 * droplet_functions/meta.py packs it, and tests/unit/test_function_meta.py compares every offset with this file.
 *
 * A frame to the function is this struct and the packet. The answer is the same frame with a verdict; for
 * FUNCTION_SEND_TO the address of the endpoint, 16 bytes, stands between the struct and the packet. A packet that a
 * function endpoint's process sends of its own has the verdict FUNCTION_SEND, no token, and the endpoint's slot.
 * Nothing in an answer may be trusted: the process wrote it.
 *
 * Includes nothing, so that a plain C compiler can print the offsets: include <linux/types.h> first.
 */
#ifndef DROPLET_FUNCTION_META_H
#define DROPLET_FUNCTION_META_H

#define FUNCTION_META_VERSION 1
#define FUNCTION_ADDRESS_SIZE 16

enum function_point {
	FUNCTION_AT_FROM_ENDPOINT = 1,
	FUNCTION_AT_TO_ENDPOINT = 2,
	FUNCTION_AT_FORWARDED = 3,
	FUNCTION_AT_FROM_UNDERLAY = 4,
	FUNCTION_AT_PASSED = 5,
	FUNCTION_AT_DROPPED = 6,
};

enum function_direction {
	FUNCTION_EGRESS = 1,  /* from an endpoint */
	FUNCTION_INGRESS = 2, /* from the underlay */
};

enum function_verdict {
	FUNCTION_NONE = 0, /* as sent to the function; never a valid answer */
	FUNCTION_GO_ON = 1,
	FUNCTION_DROP = 2,
	FUNCTION_SEND_BACK = 3,
	FUNCTION_SEND_TO = 4,
	FUNCTION_SEND = 5,
};

struct function_meta {
	__u8 version;
	__u8 point;
	__u8 direction;
	__u8 verdict;
	__u8 user_reason; /* of FUNCTION_DROP */
	__u8 pad0;
	__u16 drop_reason; /* at FUNCTION_AT_DROPPED: the outcome (outcomes.h) */
	__u32 vni;
	__u32 endpoint_slot;
	__u16 packet_offset; /* from the start of this struct */
	__u16 packet_length;
	__u32 label; /* of the sender, as in struct stage; 0: none */
	__u64 token; /* comes back unchanged; 0: of no packet */
};

#endif
