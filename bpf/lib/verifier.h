/* SPDX-License-Identifier: GPL-2.0-only */
/* Helpers that change what the kernel's verifier knows about a value, and nothing else. */
#ifndef DROPLET_VERIFIER_H
#define DROPLET_VERIFIER_H

#include "lib/kernel.h"

/* Shows the verifier that `value` is at most `mask`, a bound that it knew and forgot, or that clang optimised away. */
static __always_inline __u32 bounded(__u32 value, __u32 mask)
{
	asm volatile("" : "+r"(value));
	return value & mask;
}

/*
 * Has the verifier forget a value under 256, so that what follows is looked at once, not once for each value. It keeps
 * track of bytes on the stack only at multiples of 8.
 */
static __always_inline __u32 forgotten(__u32 value)
{
	volatile __u8 bytes[8] __attribute__((aligned(8)));

	bytes[4] = value;
	return bytes[4];
}

/*
 * Leaves a value as it is, while the verifier forgets what it has worked out about it. That of Linux 6.1 follows each
 * of the ways to a sum anew where they differ in what is known, which then are more than it follows at all.
 */
#define forget(value) asm volatile("%0 = be64 %0\n%0 = be64 %0" : "+r"(value))

#endif
