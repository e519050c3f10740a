/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What is known of the frame that this CPU handles: struct frame_state. It stands in a map and not on the stack, so
 * that a tail call leaves it as it is, and so that the verifier looks at code once, not once for each value that may
 * have been stored before.
 */
#ifndef DROPLET_STATE_H
#define DROPLET_STATE_H

/* For the program that a frame of `length` bytes enters by: nothing is known yet. NULL only in the verifier's eyes. */
static __always_inline struct frame_state *new_state(__u32 length)
{
	__u32 only = 0;
	struct frame_state *state = frame_states.lookup(&only);

	if (!state)
		return 0;
	__builtin_memset(state, 0, sizeof(*state));
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

/* Goes on in another program, which counts the frame. NO_PROGRAM when there is none. */
static __always_inline enum outcome go_on_in(context *ctx, struct frame_state *state, __u32 slot)
{
	state->called = slot + 1;
	programs.call(ctx, slot); /* it comes back only when there is none */
	state->called = 0;
	return NO_PROGRAM;
}

/* Has transit errors tell the frame's sender why it goes no further, when that is due. */
static __always_inline enum outcome go_on_in_errors(context *ctx, struct frame_state *state, enum outcome why)
{
	state->why = why;
	return go_on_in(ctx, state, TRANSIT_ERRORS);
}

#endif
