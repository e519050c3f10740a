/* SPDX-License-Identifier: GPL-2.0-only */
/* VXLAN (RFC 7348), for peers without Geneve. The header is as long as a Geneve header without options. */
#ifndef DROPLET_VXLAN_H
#define DROPLET_VXLAN_H

#include "lib/kernel.h"
#include "outcomes.h"
#include "structs.h"

struct vxlan {
	__be32 flags;
	__be32 vni; /* in the upper 24 bits */
};

#define VXLAN_HAS_VNI 0x08000000

/* `at` is the offset of the VXLAN header, `payload` the length behind it according to UDP. */
static __always_inline enum outcome parse_vxlan(void *start, void *end, __u32 at, __u32 payload, struct tunnel *tunnel)
{
	struct vxlan *vxlan = start + at;

	if ((void *)(vxlan + 1) > end)
		return MALFORMED_OUTER;
	if (!(vxlan->flags & bpf_htonl(VXLAN_HAS_VNI)))
		return VXLAN_FLAGS;
	if (payload < sizeof(struct ethhdr))
		return MALFORMED_OUTER;
	tunnel->label = 0;
	tunnel->flags |= TUNNEL_VXLAN;
	tunnel->vni = bpf_ntohl(vxlan->vni) >> 8;
	tunnel->headers = at + sizeof(*vxlan);
	tunnel->length = payload;
	return CONTINUE;
}

static __always_inline void write_vxlan(struct vxlan *vxlan, const struct tunnel *tunnel)
{
	vxlan->flags = bpf_htonl(VXLAN_HAS_VNI);
	vxlan->vni = bpf_htonl(tunnel->vni << 8);
}

#endif
