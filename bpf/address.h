/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef DROPLET_ADDRESS_H
#define DROPLET_ADDRESS_H

static __always_inline struct address mapped(__be32 ipv4)
{
	struct address address = {{0, 0, bpf_htonl(0xffff), ipv4}};

	return address;
}

static __always_inline __be32 unmapped(const struct address *address)
{
	return address->word[3];
}

static __always_inline bool same_address(const struct address *a, const struct address *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] && a->word[1] == b->word[1] &&
	       a->word[0] == b->word[0];
}

static __always_inline bool is_gateway(const __u8 *mac)
{
	const __u8 gateway[6] = GATEWAY_MAC;

	return *(__u32 *)mac == *(__u32 *)gateway && *(__u16 *)(mac + 4) == *(__u16 *)(gateway + 4);
}

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	return *(__u32 *)a == *(__u32 *)b && *(__u16 *)(a + 4) == *(__u16 *)(b + 4);
}

static __always_inline void copy_mac(__u8 *to, const __u8 *from)
{
	*(__u32 *)to = *(__u32 *)from;
	*(__u16 *)(to + 4) = *(__u16 *)(from + 4);
}

/* Stirs a word into a hash; the last call's result has every bit depending on all of the input (murmur3's mixer). */
static __always_inline __u32 stir(__u32 hash, __u32 word)
{
	hash ^= word;
	hash ^= hash >> 16;
	hash *= 0x85ebca6b;
	hash ^= hash >> 13;
	hash *= 0xc2b2ae35;
	hash ^= hash >> 16;
	return hash;
}

#endif
