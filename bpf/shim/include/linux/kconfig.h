/* SPDX-License-Identifier: GPL-2.0-only */
/* What bcc includes first. Stands in for the kernel's headers, of which our programs need nothing. */
#ifndef DROPLET_SHIM_KCONFIG_H
#define DROPLET_SHIM_KCONFIG_H

#define CONFIG_BPF_SYSCALL 1

#endif
