"""The lab in which functions are tried: hosts at different hooks, two tenants, networks that another host bounces."""

from __future__ import annotations

FAMILIES = (4, 6)
HOSTS = ("x", "t")
"""The hosts with functions: all of x's programs are at XDP, all of t's at tc. Their bouncer is m."""
OTHER = {"x": "t", "t": "x"}
VNI = {"red": 1001, "blue": 1002}
TEXT = """\
agents:
  functions: {accept: [source], host_wide: ["host.*"]}
  hosts:
    x: {endpoint_hook: xdp, uplink_hook: xdp}
    t: {endpoint_hook: tc, uplink_hook: tc}
droplets:
  x: {address: 172.18.0.11/24}
  t: {address: 172.18.0.12/24}
  m: {address: 172.18.0.13/24}
vpcs:
  - {name: red, vni: 1001, cidr: [10.0.0.0/16, "fd10::/48"], dividers: [m]}
  - {name: blue, vni: 1002, cidr: [10.0.0.0/16, "fd10::/48"], dividers: [m]}
networks:
  - {name: web, vpc: red, cidr: [10.0.1.0/24, "fd10:0:0:1::/64"], bouncers: [m]}
  - {name: by-x, vpc: red, cidr: [10.0.2.0/24, "fd10:0:0:2::/64"], bouncers: [x]}
  - {name: by-t, vpc: red, cidr: [10.0.3.0/24, "fd10:0:0:3::/64"], bouncers: [t]}
  - {name: shop, vpc: blue, cidr: [10.0.1.0/24, "fd10:0:0:1::/64"], bouncers: [m]}
  - {name: shop-by-x, vpc: blue, cidr: [10.0.2.0/24, "fd10:0:0:2::/64"], bouncers: [x]}
endpoints:
  - {name: web-x, network: web, droplet: x}
  - {name: web-t, network: web, droplet: t}
  - {name: other-x, network: web, droplet: x}
  - {name: other-t, network: web, droplet: t}
  - {name: by-x-t, network: by-x, droplet: t}
  - {name: by-x-m, network: by-x, droplet: m}
  - {name: by-t-x, network: by-t, droplet: x}
  - {name: by-t-m, network: by-t, droplet: m}
  - {name: shop-x, network: shop, droplet: x}
  - {name: shop-t, network: shop, droplet: t}
  - {name: shop-by-x-t, network: shop-by-x, droplet: t}
  - {name: shop-by-x-m, network: shop-by-x, droplet: m}
"""
"""HOST bounces the networks `by-HOST` without an endpoint in them: what is sent there and never answered passes it."""
SMALL = "\n".join(line for line in TEXT.splitlines() if "by-" not in line) + "\n"
"""Without the networks of other bouncers."""
