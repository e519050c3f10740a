/* SPDX-License-Identifier: GPL-2.0-only */
/* libc has it: the one after this folder. */
#include_next <linux/if_packet.h>
