/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What is known of the frame that this CPU handles: struct frame_state. It stands in a map and not on the stack, so
 * that a tail call leaves it as it is, and so that the verifier looks at code once, not once for each value that may
 * have been stored before.
 */
#ifndef DROPLET_STATE_H
#define DROPLET_STATE_H

#include "maps.h"
#include "outcomes.h"
#include "structs.h"

#define CLEARED_OF_TUNNEL (sizeof(struct tunnel) - __builtin_offsetof(struct tunnel, headers))

/*
 * For the program that a frame of `length` bytes enters by: nothing is known yet. NULL only in the verifier's eyes.
 * Clears only what may be read before it is written; structs.h says why the rest is safe.
 */
static __always_inline struct frame_state *new_state(__u32 length)
{
	__u32 only = 0;
	struct frame_state *state = frame_states.lookup(&only);

	if (!state)
		return 0;
	state->packet.length = 0;
	state->packet.kind = 0;
	__builtin_memset(&state->tunnel.headers, 0, CLEARED_OF_TUNNEL);
	state->called = 0;
	state->length = length;
	return state;
}

/* For a program that was called: what its caller knows, once. NULL when the caller meant another program, or none. */
static __always_inline struct frame_state *called_state(__u32 slot)
{
	__u32 only = 0;
	struct frame_state *state = frame_states.lookup(&only);

	if (!state || state->called != slot + 1)
		return 0;
	state->called = 0;
	return state;
}

/*
 * Stands after a tail call, which is an indirect jump, some 20 ns more, where its slot is not a constant: clang would
 * merge two calls into one. Different constants in the assembly keep them apart.
 */
#define KEEP_CALL(slot) asm volatile("" : : "i"(slot))

/*
 * These hand the frame to another program, which counts it. They come back only when there is none: NO_PROGRAM. The
 * first has an endpoint of this host get it, which is on the interface `receiver`.
 */
static __always_inline enum outcome go_on_in_xdp(context *ctx, struct frame_state *state, __u32 receiver)
{
	state->receiver = receiver;
	state->called = TRANSIT_XDP + 1;
	programs.call(ctx, TRANSIT_XDP);
	KEEP_CALL(TRANSIT_XDP);
	state->called = 0;
	return NO_PROGRAM;
}

/* Has the frame's sender told why it goes no further, when that is due. */
static __always_inline enum outcome go_on_in_errors(context *ctx, struct frame_state *state, enum outcome why)
{
	state->why = why;
	state->called = TRANSIT_ERRORS + 1;
	programs.call(ctx, TRANSIT_ERRORS);
	KEEP_CALL(TRANSIT_ERRORS);
	state->called = 0;
	return NO_PROGRAM;
}

#endif
