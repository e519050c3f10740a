/* SPDX-License-Identifier: GPL-2.0-only */
/* The kernel's short type names, which bcc's own headers expect from here. */
#ifndef DROPLET_SHIM_LOG2_H
#define DROPLET_SHIM_LOG2_H

#include <linux/types.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef __SIZE_TYPE__ size_t;
typedef __UINTPTR_TYPE__ uintptr_t;
typedef _Bool bool;

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#endif
