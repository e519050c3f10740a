/* SPDX-License-Identifier: GPL-2.0-only */
/* The system's headers, and what they lack. */
#ifndef DROPLET_KERNEL_H
#define DROPLET_KERNEL_H

#include <linux/types.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#ifndef true
#define true  1
#define false 0
#endif

#ifndef bpf_htons
#define bpf_htons(x) __builtin_bswap16(x)
#define bpf_ntohs(x) __builtin_bswap16(x)
#define bpf_htonl(x) __builtin_bswap32(x)
#define bpf_ntohl(x) __builtin_bswap32(x)
#endif

#endif
