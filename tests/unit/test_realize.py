"""From documents in force to map entries and interfaces."""

from __future__ import annotations

from agent.core.desired import Desired
from agent.core.layout import ENDPOINT, INTERFACE, NETWORK, OVERLAY_KEY, U32, MapName, mapped, network_key
from agent.core.realize import IFINDEX_BASE, endpoint_mtu, host_ifname
from agent.core.world import Here
from protocol import codec
from protocol.documents import Attachment, Document, Droplet, Endpoint, Network, Vpc

HERE = Here("h1", "lab-h1", 2, bytes(6), 1500, (bytes([10, 0, 0, 1]),))
DOCUMENT = Document(
    (Droplet("d1", "h1", "10.0.0.1"), Droplet("d2", "h2", "10.0.0.2")),
    (Vpc("red", 7, ("192.168.0.0/16",)),),
    (Network("front", "red", ("192.168.1.0/24",), ("d1", "d2")),),
    (
        Endpoint("a", "front", "d1", ("192.168.1.5",), "02:00:00:00:00:05", Attachment("a")),
        Endpoint("b", "front", "d2", ("192.168.1.6",), "02:00:00:00:00:06"),
    ),
)


def test_one_document_becomes_entries_and_an_interface() -> None:
    desired = Desired(HERE)
    desired.documents.put("all", 1, codec.encode(DOCUMENT))
    after = desired.settle().after
    one, two = (mapped(bytes([10, 0, 0, n])) for n in (1, 2))
    local, remote = (OVERLAY_KEY.pack(7, mapped(bytes([192, 168, 1, n]))) for n in (5, 6))
    mac = bytes.fromhex("020000000005")
    assert ENDPOINT.unpack(after.entries[MapName.ENDPOINTS][local]) == (one, IFINDEX_BASE, 0, mac)
    assert ENDPOINT.unpack(after.entries[MapName.ENDPOINTS][remote])[:3] == (two, 0, 0)
    interface = after.entries[MapName.INTERFACES][U32.pack(0)]
    assert INTERFACE.unpack(interface) == (7, mapped(bytes([192, 168, 1, 5])), mac)
    gateway, flags, count, bouncers = NETWORK.unpack(
        after.entries[MapName.NETWORKS][network_key(7, bytes([192, 168, 1, 0]), 24)]
    )
    assert (gateway, flags, count, bouncers[:32]) == (mapped(bytes([192, 168, 1, 1])), 1, 2, one + two)
    assert set(after.entries[MapName.DROPLETS]) == {two}
    veth = after.veths["a"]
    assert (veth.addresses, veth.gateways, veth.mtu) == (("192.168.1.5/24",), ("192.168.1.1",), endpoint_mtu(1500))
    assert after.transit == 2


def test_an_interfaces_name_fits_the_kernel_and_differs_by_instance() -> None:
    assert host_ifname("one", "a") != host_ifname("two", "a")
    assert len(host_ifname("one", "a" * 63)) == 14
