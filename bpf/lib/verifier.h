/* SPDX-License-Identifier: GPL-2.0-only */
/* Helpers that change what the kernel's verifier knows about a value, and nothing else. */
#ifndef DROPLET_VERIFIER_H
#define DROPLET_VERIFIER_H

#include "lib/kernel.h"

/*
 * Shows the verifier that `value` is at most `mask`: a bound that it lost, or a mask that clang would optimise away.
 */
static __always_inline __u32 bounded(__u32 value, __u32 mask)
{
	asm volatile("" : "+r"(value));
	return value & mask;
}

/*
 * Returns a value below 256 that the verifier does not know, so it checks the code that follows once and not once for
 * each value. The verifier tracks stack bytes only at multiples of 8, hence the index 4.
 */
static __always_inline __u32 unknown_scalar(__u32 value)
{
	volatile __u8 bytes[8] __attribute__((aligned(8)));

	bytes[4] = value;
	return bytes[4];
}

/*
 * The same, also where clang would put the byte of unknown_scalar() at a multiple of 8, which it does if nothing else
 * of the array is used. Only for values on which no pointer's validity depends.
 */
static __always_inline __u32 forgotten(__u32 value)
{
	__u64 bytes;

	asm volatile("*(u8 *)(%1 + 4) = %0\n%0 = *(u8 *)(%1 + 4)" : "+r"(value) : "r"(&bytes) : "memory");
	return value;
}

/*
 * Makes the verifier treat a value as an unknown scalar. The one of Linux 6.1 would otherwise check each path to a sum
 * on its own and exceed its limit.
 */
#define mark_unknown(value) asm volatile("%0 = be64 %0\n%0 = be64 %0" : "+r"(value))

/*
 * Has code that follows test the pointer itself. Clang would otherwise test what it follows from once more, such as
 * that a field is not 0, which the verifier of Linux 6.1 does not remember.
 */
#define test_itself(pointer) asm volatile("" : "+r"(pointer))

#endif
