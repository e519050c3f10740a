/* SPDX-License-Identifier: GPL-2.0-only */
/* The least that puts a packet into a tunnel: one header check, one hash lookup, encapsulate, redirect. */
#ifndef BENCH_FROM_ENDPOINT_H
#define BENCH_FROM_ENDPOINT_H

#include "lib/kernel.h"
#include "bare.h"

BPF_TABLE("hash", struct bare_key, struct bare_path, bare_paths, 1);

static __always_inline void write_outer(struct bare_headers *outer, const struct bare_path *path, __u32 length)
{
	__u32 sum = 0;

	__builtin_memcpy(outer->ethernet.h_dest, path->destination, 6);
	__builtin_memcpy(outer->ethernet.h_source, path->source, 6);
	outer->ethernet.h_proto = bpf_htons(ETH_P_IP);
	*(__u16 *)&outer->ip = bpf_htons(0x4500);
	outer->ip.tot_len = bpf_htons(length + sizeof(*outer) - sizeof(outer->ethernet));
	outer->ip.id = 0;
	outer->ip.frag_off = bpf_htons(0x4000);
	outer->ip.ttl = 64;
	outer->ip.protocol = IPPROTO_UDP;
	outer->ip.check = 0;
	outer->ip.saddr = path->local;
	outer->ip.daddr = path->remote;
	for (int i = 0; i < 10; i++)
		sum += ((__u16 *)&outer->ip)[i];
	sum = (sum & 0xffff) + (sum >> 16);
	outer->ip.check = ~((sum & 0xffff) + (sum >> 16));
	outer->udp.source = bpf_htons(49152);
	outer->udp.dest = bpf_htons(TUNNEL_PORT);
	outer->udp.len = bpf_htons(length + 16);
	outer->udp.check = 0;
	outer->geneve = bpf_htonl(0x6558);
	outer->vni = bpf_htonl(7 << 8);
}

static __always_inline int process_endpoint(context *ctx)
{
	struct ethhdr *inner = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(inner + 1);
	__u32 length = ctx->data_end - ctx->data;
	struct bare_key key = {bpf_htonl(7 << 8)};
	struct bare_headers *outer;
	struct bare_path *path;

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end || inner->h_proto != bpf_htons(ETH_P_IP))
		return XDP_ABORTED;
	key.address = ip->daddr;
	path = bare_paths.lookup(&key);
	if (!path || bpf_xdp_adjust_head(ctx, -(int)sizeof(*outer)))
		return XDP_ABORTED;
	outer = (void *)(long)ctx->data;
	if ((void *)(outer + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	write_outer(outer, path, length);
	return bpf_redirect(path->ifindex, 0);
}

#endif
