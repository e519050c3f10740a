/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The least that takes a packet out of a tunnel: one header check, one hash lookup, decapsulate, redirect. It counts
 * nothing, learns nothing and trusts everybody.
 */
#ifndef BENCH_FROM_UNDERLAY_H
#define BENCH_FROM_UNDERLAY_H

#include "lib/kernel.h"
#include "bare.h"

BPF_TABLE("hash", struct bare_key, struct bare_endpoint, bare_endpoints, 1);

static __always_inline int process_underlay(context *ctx)
{
	struct bare_headers *outer = (void *)(long)ctx->data;
	struct ethhdr *inner = (void *)(outer + 1);
	struct iphdr *ip = (void *)(inner + 1);
	struct bare_endpoint *endpoint;
	struct bare_key key = {};
	__u32 ifindex;

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end || outer->ethernet.h_proto != bpf_htons(ETH_P_IP) ||
	    outer->ip.protocol != IPPROTO_UDP || outer->udp.dest != bpf_htons(TUNNEL_PORT))
		return XDP_ABORTED;
	key.vni = outer->vni;
	key.address = ip->daddr;
	endpoint = bare_endpoints.lookup(&key);
	if (!endpoint)
		return XDP_ABORTED;
	ifindex = endpoint->ifindex;
	__builtin_memcpy(inner->h_dest, endpoint->mac, 6);
	if (bpf_xdp_adjust_head(ctx, sizeof(*outer)))
		return XDP_ABORTED;
	return bpf_redirect(ifindex, 0);
}

#endif
