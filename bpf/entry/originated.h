/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Packets that the process of a function endpoint sends without having got one: answers with the verdict to send, and
 * without a token. Agent resume checks and routes them like all that this endpoint sends.
 */
#ifndef DROPLET_ORIGINATED_H
#define DROPLET_ORIGINATED_H

#include "entry/function.h"

#if STAGES

static __always_inline bool is_originated(const struct function_answer *answer)
{
	return !answer->token && answer->verdict == STAGE_SEND;
}

/* The endpoint that the process names; NULL, and closed, unless it is a function endpoint with that function. */
static __always_inline struct interface *find_originator(const struct function_answer *answer, __u32 index)
{
	__u32 slot = answer->slot, behind;
	struct endpoint_stages *stages = endpoint_stages.lookup(&slot);
	struct interface *sender = find_interface(IFINDEX_BASE + slot);

	if (index / STAGE_SLOTS + 1 != STAGE_TO_ENDPOINT || !stages)
		return 0;
	if (!find_function(stages->to_endpoint, index, &behind))
		return 0;
	return sender && is_function_endpoint(sender) ? sender : 0;
}

static __always_inline int send_originated(context *ctx, const struct function_answer *answer,
					   const struct interface *sender, struct frame_state *state)
{
	enum outcome outcome;

	state->receiver = state->rx_ifindex = IFINDEX_BASE + answer->slot;
	state->sent = 1;
	state->sends = STAGE_SEND;
	state->changed = state->processed = 0;
	state->tunnel.vni = sender->vni;
	state->tunnel.length = state->tunnel.longest = state->length;
	outcome = observe_end(ctx, state, call_agent_resume(ctx, state));
	return leave_endpoint(ctx, state->rx_ifindex, outcome, amount_of(ctx, state), 0);
}

#endif
#endif
