/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef DROPLET_ADDRESS_H
#define DROPLET_ADDRESS_H

static __always_inline struct address mapped(__be32 ipv4)
{
	struct address address = {{0, 0, bpf_htonl(0xffff), ipv4}};

	return address;
}

/*
 * Fills a key by stores as wide as the loads of the kernel's comparison, which else would wait for the narrower ones:
 * some 5 ns a lookup. `key` is aligned to 8.
 */
static __always_inline void set_key(struct overlay_key *key, __u32 vni, __be32 ipv4)
{
	volatile __u64 *wide = (__u64 *)key;

	wide[0] = vni;
	wide[1] = (__u64)bpf_htonl(0xffff) << 32;
	key->address.word[3] = ipv4;
}

/* The same for an address in a map or aligned to 8. */
static __always_inline void copy_address(struct address *to, const struct address *from)
{
	volatile __u64 *wide = (__u64 *)to;
	const __u64 *source = (const __u64 *)from;

	wide[0] = source[0];
	wide[1] = source[1];
}

#define KEY __attribute__((aligned(8)))

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

/* Hashes two words so that every bit of the result depends on all of them (a step of splitmix64). */
static __always_inline __u32 hash_pair(__u64 one, __u64 other)
{
	__u64 hash = one * 0x9e3779b97f4a7c15ULL + other;

	hash ^= hash >> 32;
	hash *= 0xbf58476d1ce4e5b9ULL;
	return hash >> 32;
}

#endif
