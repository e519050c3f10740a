"""Named configurations: which documents there are, and what they say.

A document is a tuple of contents: the last one is its newest, those before it were taken in first, one by one.
"""

from __future__ import annotations

from typing import Any

import msgspec

Content = dict[str, Any] | bytes
Configuration = dict[str, tuple[Content, ...]]

DROPLETS: Content = {"droplets": [{"id": f"d{n}", "host": f"h{n}", "address": f"10.0.0.{n}"} for n in range(1, 5)]}
MOVED_DROPLETS: Content = {
    "droplets": [{"id": f"d{n}", "host": f"h{n}", "address": f"10.0.{9 if n == 3 else 0}.{n}"} for n in (4, 3, 2, 1)]
}


def vpc(name: str, vni: int, *dividers: str, cidr: str = "192.168.0.0/16") -> dict[str, Any]:
    return {"id": name, "vni": vni, "cidrs": [cidr], "dividers": list(dividers)}


def network(name: str, of: str, cidr: str, *bouncers: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "vpc": of, "cidrs": [cidr], "bouncers": list(bouncers), **more}


def endpoint(name: str, of: str, on: str, address: str, **more: Any) -> dict[str, Any]:
    number = sum(name.encode()) % 256
    attachment = {"attachment": {"namespace": name}} if on == "d1" else {}
    mac = f"02:00:00:00:{int(address.rsplit('.', 1)[1]):02x}:{number:02x}"
    return {"id": name, "network": of, "droplet": on, "addresses": [address], "mac": mac, **attachment, **more}


def body(content: Content) -> bytes:
    return content if isinstance(content, bytes) else msgspec.msgpack.encode(content)


RED: Content = {"vpcs": [vpc("red", 7)], "networks": [network("front", "red", "192.168.1.0/24", "d2")]}
LOCAL: Content = {"endpoints": [endpoint("a", "front", "d1", "192.168.1.10")]}
REMOTE: Content = {"endpoints": [endpoint("b", "front", "d2", "192.168.1.11")]}
MANY: Content = {"endpoints": [endpoint(f"m{n}", "front", "d3", f"192.168.1.{n}") for n in range(20, 60)]}

ONE_BOUNCER: Configuration = {"underlay": (DROPLETS,), "red": (RED,), "a": (LOCAL,), "b": (REMOTE,)}


def changed(configuration: Configuration, **documents: tuple[Content, ...] | None) -> Configuration:
    """Return a configuration with some documents replaced, added, or (None) removed."""
    result = {**configuration, **{name: contents for name, contents in documents.items() if contents is not None}}
    return {name: contents for name, contents in result.items() if documents.get(name, ()) is not None}


def red(*bouncers: str, dividers: tuple[str, ...] = (), cidr: str = "192.168.1.0/24") -> Content:
    return {"vpcs": [vpc("red", 7, *dividers)], "networks": [network("front", "red", cidr, *bouncers)]}


BLUE: Content = {"vpcs": [vpc("blue", 8)], "networks": [network("blue-front", "blue", "192.168.1.0/24", "d3")]}
BACK: Content = {"networks": [network("back", "red", "192.168.2.0/24", "d4", gateways=["192.168.2.254"])]}

OTHERS = DROPLETS["droplets"][1:]  # type: ignore[index]
PLAIN_OWN = {"id": "d1", "host": "h1", "address": "10.0.0.1"}
SIXTH = {"id": "d1-6", "host": "h1", "address": "2001:db8::1"}
SECOND = {"id": "aa-second", "host": "h1", "address": "10.0.0.101"}
BONDED = {"id": "d1-bond", "host": "h1", "address": "10.5.0.1"}
UNSIGNED = {**SIXTH, "udp_checksum": "zero"}
PEERS = {"id": "d2-6", "host": "h2", "address": "2001:db8::2"}


def droplets(*own: dict[str, str]) -> tuple[Content]:
    return ({"droplets": [*own, *OTHERS]},)


def on(droplet: str, name: str, *addresses: str, of: str = "front", **more: Any) -> tuple[Content]:
    mac = f"02:00:00:01:00:{sum(name.encode()) % 256:02x}"
    item = {"id": name, "network": of, "droplet": droplet, "addresses": list(addresses), "mac": mac}
    return ({"endpoints": [{**item, "attachment": {"namespace": name}, **more}]},)


def both(**more: Any) -> Content:
    """Return a VPC and a network of both families."""
    cidrs = {"cidrs": ["192.168.0.0/16", "fd00::/48"]}
    front = {"id": "front", "vpc": "red", "cidrs": ["192.168.1.0/24", "fd00:0:0:1::/64"], "bouncers": ["d2"], **more}
    return {"vpcs": [{"id": "red", "vni": 7, "dividers": ["d4"], **cidrs}], "networks": [front]}


SEVERAL = changed(
    ONE_BOUNCER,
    underlay=droplets(PLAIN_OWN),
    second=({"droplets": [SECOND]},),
    bond=({"droplets": [BONDED]},),
    c=on("aa-second", "c", "192.168.1.20"),
    d=on("d1-bond", "d", "192.168.1.21"),
    f=on("d1", "f", "192.168.1.23"),
)
"""Two droplets on one interface and one on another, each of its own document; the second comes first by its id."""

FAMILIES = changed(
    ONE_BOUNCER,
    underlay=droplets(PLAIN_OWN, SIXTH, PEERS),
    red=(both(),),
    c=on("d1-6", "c", "192.168.1.20", "fd00:0:0:1::20"),
    d=on("d1", "d", "fd00:0:0:1::21"),
    e=({"endpoints": [{**on("d2-6", "e", "fd00:0:0:1::22")[0]["endpoints"][0]}]},),  # type: ignore[index]
)

LAYOUT_CONFIGURATIONS: dict[str, Configuration] = {
    "several droplets": SEVERAL,
    "the first droplet went": changed(SEVERAL, underlay=({"droplets": OTHERS},), a=None),
    "the second droplet went": changed(SEVERAL, second=None),
    "the second droplet went with its endpoint": changed(SEVERAL, second=None, c=None),
    "the bond's droplet went": changed(SEVERAL, bond=None),
    "the bond's droplet alone": {
        "underlay": ({"droplets": [BONDED, *OTHERS]},),
        "red": (RED,),
        "d": on("d1-bond", "d", "192.168.1.21"),
    },
    "droplets changed their addresses": changed(
        SEVERAL,
        underlay=droplets({**PLAIN_OWN, "address": "10.0.0.101"}),
        second=({"droplets": [{**SECOND, "address": "10.0.0.1"}]},),
    ),
    "endpoints changed their droplets": changed(
        SEVERAL, c=None, d=None, c_moved=on("d1-bond", "c", "192.168.1.20"), d_moved=on("d1", "d", "192.168.1.21")
    ),
    "all droplets in one document": changed(
        SEVERAL, underlay=droplets(BONDED, SECOND, PLAIN_OWN), second=None, bond=None
    ),
    "both families": FAMILIES,
    "both families, unsigned": changed(FAMILIES, underlay=droplets(PLAIN_OWN, UNSIGNED, PEERS)),
    "both families, a peer unsigned": changed(
        FAMILIES, underlay=droplets(PLAIN_OWN, SIXTH, {**PEERS, "udp_checksum": "zero"})
    ),
    "unsigned in a document of its own": changed(
        FAMILIES, underlay=droplets(PLAIN_OWN, PEERS), own=({"droplets": [UNSIGNED]},)
    ),
    "endpoints of the other family": changed(
        FAMILIES, c=on("d1-6", "c", "fd00:0:0:1::20"), d=on("d1", "d", "192.168.1.21", "fd00:0:0:1::21")
    ),
    "VXLAN": changed(FAMILIES, red=(both(encapsulation="vxlan"),)),
    "pinned": changed(FAMILIES, red=(both(routing="divider"),)),
    "classes": changed(
        FAMILIES,
        c=on("d1-6", "c", "192.168.1.20", "fd00:0:0:1::20", dscp=46),
        d=on("d1", "d", "fd00:0:0:1::21", dscp=8),
    ),
    "labels": changed(
        FAMILIES,
        red=(both(labels=True),),
        c=on("d1-6", "c", "192.168.1.20", "fd00:0:0:1::20", label=7),
        d=on("d1", "d", "fd00:0:0:1::21", label=1),
    ),
    "a droplet's address that no interface has": changed(
        SEVERAL, second=({"droplets": [SECOND]}, {"droplets": [{**SECOND, "address": "10.77.0.1"}]})
    ),
    "a droplet's address of another document": changed(
        SEVERAL, robber=({"droplets": [{"id": "robber", "host": "h7", "address": "10.5.0.1"}]},)
    ),
}
"""What the second layout brought: several droplets on this host, both families, VXLAN and pinned networks."""


def function(name: str, point: str, text: str = "plain", **more: Any) -> Content:
    """Return a document with one function; the fake kernel's compiler refuses programs with `BAD` in their text."""
    return {"functions": [{"id": name, "point": point, "program": {"source": text}, **more}]}


def several(*contents: Content) -> Content:
    return {"functions": [one for content in contents for one in content["functions"]]}  # type: ignore[index]


BACK_A: Content = {"endpoints": [endpoint("back-a", "back", "d1", "192.168.2.10")]}
WITH_FUNCTIONS = changed(
    ONE_BOUNCER,
    blue=(BLUE,),
    blue_a=({"endpoints": [endpoint("blue-a", "blue-front", "d1", "192.168.1.10")]},),
    back=(BACK,),
    back_a=(BACK_A,),
)
"""Three endpoints here, in two networks of one VPC and in another VPC."""
SENT = function("sent", "from_endpoint", vpc="red")
RECEIVED = function("received", "to_endpoint", vpc="red", scope={"networks": ["front"]})
HOST = several(
    function("a-first", "from_endpoint"),
    function("all", "forwarded", order=5),
    function("under", "from_underlay", scope={"vpcs": ["blue"]}),
    function("host", "passed"),
    function("lost", "dropped"),
)
EIGHT = several(*(function(f"n{n}", "from_endpoint", vpc="red", order=9 - n) for n in range(8)))

FUNCTION_CONFIGURATIONS: dict[str, Configuration] = {
    "functions of one VPC": changed(WITH_FUNCTIONS, f_sent=(SENT,), f_received=(RECEIVED,)),
    "functions everywhere": changed(WITH_FUNCTIONS, f_sent=(SENT,), f_received=(RECEIVED,), f_host=(HOST,)),
    "one function everywhere is gone": changed(WITH_FUNCTIONS, f_received=(RECEIVED,), f_host=(HOST,)),
    "functions in another order": changed(
        WITH_FUNCTIONS, f_sent=(function("sent", "from_endpoint", vpc="red", order=1),), f_host=(HOST,)
    ),
    "a function at another point": changed(WITH_FUNCTIONS, f_sent=(function("sent", "to_endpoint", vpc="red"),)),
    "another program and configuration": changed(
        WITH_FUNCTIONS, f_sent=(function("sent", "from_endpoint", "newer", vpc="red", configuration=b"port 80"),)
    ),
    "a function that fails closed": changed(
        WITH_FUNCTIONS, f_sent=(function("sent", "from_endpoint", vpc="red", on_fault="closed"),)
    ),
    "a function of one endpoint": changed(
        WITH_FUNCTIONS, f_sent=(function("sent", "from_endpoint", vpc="red", scope={"endpoints": ["a", "later"]}),)
    ),
    "a function of another VPC's endpoint": changed(
        WITH_FUNCTIONS, f_sent=(function("sent", "from_endpoint", vpc="red", scope={"endpoints": ["blue-a"]}),)
    ),
    "a function of another VPC's network": changed(
        WITH_FUNCTIONS, f_bad=(function("bad", "from_endpoint", vpc="red", scope={"networks": ["blue-front"]}),)
    ),
    "a function of no VPC yet": changed(WITH_FUNCTIONS, f_lost=(function("lost-one", "from_endpoint", vpc="green"),)),
    "a function without a right to all": changed(WITH_FUNCTIONS, f_bold=(function("bold", "from_endpoint"),)),
    "a function that does not compile": changed(
        WITH_FUNCTIONS, f_broken=(function("broken", "from_endpoint", "BAD", vpc="red"),), f_received=(RECEIVED,)
    ),
    "a function that does not compile on top": changed(
        WITH_FUNCTIONS, f_sent=(SENT, function("sent", "from_endpoint", "BAD", vpc="red"))
    ),
    "eight functions at a point": changed(WITH_FUNCTIONS, f_eight=(EIGHT,)),
    "nine functions at a point": changed(
        WITH_FUNCTIONS, f_eight=(EIGHT,), f_ninth=(function("n9", "from_endpoint", vpc="red"),)
    ),
    "functions and their VPC in one document": changed(
        WITH_FUNCTIONS,
        red=({**RED, **several(SENT, RECEIVED)},),  # type: ignore[dict-item]
    ),
    "the functions' VPC has another VNI": changed(
        WITH_FUNCTIONS,
        red=({"vpcs": [vpc("red", 70)], "networks": [network("front", "red", "192.168.1.0/24", "d2")]},),
        f_host=(HOST,),
    ),
    "a function endpoint": changed(
        WITH_FUNCTIONS,
        a=({"endpoints": [endpoint("a", "front", "d1", "192.168.1.10", attachment={"kind": "function"})]},),
        f_received=(RECEIVED,),
    ),
    "function endpoints without functions": changed(
        WITH_FUNCTIONS,
        a=None,
        later=(
            {
                "endpoints": [
                    endpoint(name, "back", "d1", f"192.168.2.{n}", attachment={"kind": "function"})
                    for n, name in enumerate(("late-a", "late-b"), 30)
                ]
            },
        ),
    ),
    "functions behind another droplet of this host": changed(
        WITH_FUNCTIONS, second=({"droplets": [SECOND]},), f_sent=(SENT,), f_host=(HOST,)
    ),
}
"""Functions at all points, of several scopes, by documents of their own."""

CONFIGURATIONS: dict[str, Configuration] = {
    **LAYOUT_CONFIGURATIONS,
    **FUNCTION_CONFIGURATIONS,
    "nothing": {},
    "underlay only": {"underlay": (DROPLETS,)},
    "underlay of other hosts only": {"underlay": ({"droplets": DROPLETS["droplets"][1:]},)},  # type: ignore[index]
    "no droplets yet": changed(ONE_BOUNCER, underlay=None),
    "one bouncer": ONE_BOUNCER,
    "a droplet moved": changed(ONE_BOUNCER, underlay=(MOVED_DROPLETS,), many=(MANY,)),
    "bouncer here": changed(ONE_BOUNCER, red=(red("d1"),), many=(MANY,)),
    "bouncer replaced": changed(ONE_BOUNCER, red=(red("d3"),)),
    "two bouncers": changed(ONE_BOUNCER, red=(red("d2", "d3"),)),
    "divided": changed(ONE_BOUNCER, red=(red("d2", dividers=("d3", "d4")),), back=(BACK,)),
    "divided here": changed(ONE_BOUNCER, red=(red("d1", dividers=("d1",)),), back=(BACK,)),
    "two VPCs with the same addresses": changed(
        ONE_BOUNCER,
        blue=(BLUE,),
        blue_a=({"endpoints": [endpoint("blue-a", "blue-front", "d1", "192.168.1.10")]},),
        blue_b=({"endpoints": [endpoint("blue-b", "blue-front", "d2", "192.168.1.11")]},),
    ),
    "the VPC has another VNI": changed(
        ONE_BOUNCER,
        red=({"vpcs": [vpc("red", 70)], "networks": [network("front", "red", "192.168.1.0/24", "d2")]},),
    ),
    "endpoint moved away": changed(ONE_BOUNCER, a=({"endpoints": [endpoint("a", "front", "d4", "192.168.1.10")]},)),
    "endpoint moved here": changed(ONE_BOUNCER, b=({"endpoints": [endpoint("b", "front", "d1", "192.168.1.11")]},)),
    "endpoint with another address": changed(
        ONE_BOUNCER, a=({"endpoints": [endpoint("a", "front", "d1", "192.168.1.12")]},)
    ),
    "endpoint in another document": changed(
        ONE_BOUNCER,
        a=None,
        b=({"endpoints": [*LOCAL["endpoints"], *REMOTE["endpoints"]]},),  # type: ignore[index]
    ),
    "one document for all": {
        "all": (
            {
                **DROPLETS,  # type: ignore[dict-item]
                **RED,  # type: ignore[dict-item]
                "endpoints": [*LOCAL["endpoints"], *REMOTE["endpoints"], *MANY["endpoints"]],  # type: ignore[index]
            },
        )
    },
    "a reference to nothing": changed(
        ONE_BOUNCER, lost=({"endpoints": [endpoint("x", "nowhere", "d1", "192.168.9.9")]},)
    ),
    "a network outside its VPC": changed(ONE_BOUNCER, out=({"networks": [network("out", "red", "10.9.0.0/24")]},)),
    "an endpoint outside its network": changed(
        ONE_BOUNCER, out=({"endpoints": [endpoint("x", "front", "d2", "192.168.2.2")]},)
    ),
    "network document removed": changed(ONE_BOUNCER, red=None),
    "an endpoint's document removed": changed(ONE_BOUNCER, a=None),
    "noise on top": changed(ONE_BOUNCER, a=(LOCAL, b"\xc1noise")),
    "an unknown kind on top": changed(ONE_BOUNCER, red=(RED, {"stages": []})),
    "a bad network on top": changed(ONE_BOUNCER, red=(RED, red("d2", cidr="172.16.0.0/24"))),
    "a pending bouncer on top": changed(ONE_BOUNCER, red=(RED, red("d9", cidr="192.168.3.0/24"))),
    "a droplet's address that this host does not have on top": changed(
        ONE_BOUNCER, underlay=(DROPLETS, {"droplets": [{"id": "d1", "host": "h1", "address": "10.0.0.99"}]})
    ),
    "a claim of another's endpoint": changed(ONE_BOUNCER, thief=(LOCAL,)),
    "a claim of another's address": changed(
        ONE_BOUNCER, thief=({"endpoints": [endpoint("t", "front", "d3", "192.168.1.10")]},)
    ),
    "a claim of another's VPC": changed(
        ONE_BOUNCER, thief=({"vpcs": [vpc("red", 9, cidr="10.0.0.0/8"), vpc("green", 7)]},)
    ),
    "a second droplet of this host": changed(
        ONE_BOUNCER, thief=({"droplets": [{"id": "aa", "host": "h1", "address": "10.0.0.1"}]},)
    ),
    "an overlapping network": changed(
        ONE_BOUNCER, thief=({"networks": [network("wide", "red", "192.168.0.0/20", "d3")]},)
    ),
}
"""Every state that one message at a time can lead to."""
