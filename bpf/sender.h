/* SPDX-License-Identifier: GPL-2.0-only */
/* Whose interface a frame came in on. The agent numbers endpoints' interfaces by slot: an array knows them. */
#ifndef DROPLET_SENDER_H
#define DROPLET_SENDER_H

/* For an interface of no endpoint, a slot beyond the end of every map. */
static __always_inline __u32 slot_of(__u32 ifindex)
{
	return ifindex - IFINDEX_BASE;
}

/* NULL when the interface is no endpoint's: closed, for all that use it. An array has no absent entry, and 0 is no VNI.
 */
static __always_inline struct interface *sender_on(__u32 ifindex)
{
	__u32 slot = slot_of(ifindex);
	struct interface *sender = interfaces.lookup(&slot);

	return sender && sender->vni ? sender : 0;
}

#endif
