/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Direct paths: from a delivered packet, on which droplet its sender is. A path in use is written once in
 * DIRECT_RENEW, not at every packet.
 */
#ifndef DROPLET_LEARN_H
#define DROPLET_LEARN_H

static __always_inline enum outcome learn_new(const struct local_droplet *local, const struct tunnel *tunnel,
					      struct overlay_key *from)
{
	struct direct_path path = {tunnel->origin, bpf_ktime_get_coarse_ns(), bpf_jiffies64()};
	struct endpoint *endpoint = endpoints.lookup(from);

	if (endpoint && endpoint->ifindex)
		return SOURCE_ELSEWHERE;
	if (endpoint && !same_address(&endpoint->host, &path.host)) /* closed: documents know better than packets */
		return GO_ON;
	/* Closed for the path, open for the packet: it came from a known droplet, which may know more than we do. */
	if (tunnel->returns && !droplets.lookup(&path.host))
		return GO_ON;
	if (!same_address(&path.host, &local->address))
		direct.update(from, &path);
	return GO_ON;
}

static __always_inline bool confirmed_lately(struct overlay_key *from, const struct address *host)
{
	struct direct_path *path = direct.lookup(from);

	return path && same_address(&path->host, host) && age_of(path) < DIRECT_RENEW;
}

static __always_inline enum outcome learn(const struct local_droplet *local, const struct tunnel *tunnel,
					  struct overlay_key *from)
{
	if (tunnel->returns && confirmed_lately(from, &tunnel->origin))
		return GO_ON;
	return learn_new(local, tunnel, from);
}

#endif
