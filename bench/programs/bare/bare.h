/* SPDX-License-Identifier: GPL-2.0-only */
/* What the bare programs share. bench/contestants.py packs the structs. */
#ifndef BENCH_BARE_H
#define BENCH_BARE_H

#define TUNNEL_PORT 6081

struct bare_headers {
	struct ethhdr ethernet;
	struct iphdr ip;
	struct udphdr udp;
	__be32 geneve;
	__be32 vni;
} __attribute__((packed, aligned(2)));

struct bare_key {
	__be32 vni; /* as it is on the wire */
	__be32 address;
};

struct bare_endpoint {
	__u32 ifindex;
	__u8 mac[6];
	__u8 pad[2];
};

struct bare_path {
	__be32 local;
	__be32 remote;
	__u32 ifindex;
	__u8 source[6];
	__u8 destination[6];
};

#endif
