/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The named slots of the jump table `programs`: programs that are reached by tail call. ProgramSlot in
 * agent/core/model/map_layout.py has the same numbers; tests/unit/test_map_layout.py compares them. A new slot, such as
 * that of a network function, is added in these two places.
 */
#ifndef DROPLET_SLOTS_H
#define DROPLET_SLOTS_H

enum program_slot {
	SLOT_SAME_HOST,	     /* delivers a frame of an endpoint to another one of this host */
	SLOT_ERRORS,	     /* answers a packet that cannot be delivered, or drops it */
	SLOT_AGENT_RESUME,   /* continues behind the functions at from_endpoint */
	SLOT_TRANSIT_RESUME, /* continues behind those at to_endpoint, forwarded and from_underlay */
	SLOTS = 32,	     /* the size of the table */
};

#endif
