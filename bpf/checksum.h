/* SPDX-License-Identifier: GPL-2.0-only */
/* The Internet checksum: RFC 1071, and its update, RFC 1624 equation 3. Sums are of words as they lie in memory. */
#ifndef DROPLET_CHECKSUM_H
#define DROPLET_CHECKSUM_H

static __always_inline __u16 checksum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* A checksum after one of the words under it changed. */
static __always_inline __u16 checksum_replace(__u16 check, __u16 old, __u16 new)
{
	return checksum_fold((__u64)(__u16)~check + (__u16)~old + new);
}

static __always_inline void set_tos(struct iphdr *ip, __u8 tos)
{
	__u16 before = *(__u16 *)ip, after;

	ip->tos = tos;
	after = *(__u16 *)ip;
	ip->check = checksum_replace(ip->check, before, after);
}

/* Time to live and protocol share a word; the time to live is its first byte, and not 0. */
static __always_inline void decrement_ttl(struct iphdr *ip)
{
	__u16 *word = (__u16 *)&ip->ttl;
	__u16 before = *word, after = before - bpf_htons(0x0100);

	*word = after;
	ip->check = checksum_replace(ip->check, before, after);
}

#endif
