"""Rules of the oracle for both programs: delivery to endpoints, and answers to ARP and neighbour discovery."""

from __future__ import annotations

from fuzz_machine import Step
from fuzz_model import GATEWAY_MAC, ZERO, Model, is_v4
from fuzz_parse import (
    ICMPV6,
    MAPPED,
    Ip,
    is_transport_right,
)
from fuzz_rules import (
    ViolationError,
    ip_of,
    need,
)

from agent.core.model import map_layout
from agent.core.model.endpoint_slots import IFINDEX_BASE


class Replies:
    """Rules that depend on the configuration."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def _is_local(self, vni: int, address: bytes) -> bool:
        endpoint = self.model.endpoints.get((vni, address))
        return bool(endpoint and endpoint.ifindex)

    @staticmethod
    def _is_solicitation(frame: bytes, ip: Ip) -> bool:
        return frame[12:14] == b"\x86\xdd" and ip.protocol == ICMPV6 and ip.plain and frame[54:55] == b"\x87"

    def _check_endpoint(self, step: Step, vni: int, destination: bytes, length: int, before: bytes) -> None:
        endpoint = self.model.endpoints.get((vni, destination))
        if endpoint is None:
            raise ViolationError("what is delivered is for an endpoint of the VPC that the tunnel named")
        need(step.leaves == endpoint.ifindex, "what is delivered goes to its endpoint")
        need(self.model.interfaces[step.leaves - IFINDEX_BASE].vni == vni, "no delivery across VPCs")
        need(step.out[:6] == endpoint.mac, "its Ethernet destination is the endpoint's")
        source = GATEWAY_MAC if before[:6] == GATEWAY_MAC else before[6:12]
        need(step.out[6:12] == source, "its Ethernet source is the sender's, or the gateway's")
        need(length <= 14 + endpoint.mtu, "it fits the endpoint's MTU")

    def _check_arp(self, step: Step, vni: int, asked: bytes, answer: bytes) -> None:
        target = MAPPED + asked[38:42]
        endpoint, network = self.model.endpoints.get((vni, target)), self.model.network_of(vni, target)
        macs = {endpoint.mac} if endpoint else set()
        if network and network.gateway == target and step.program == "transit_agent":
            macs.add(GATEWAY_MAC)
        need(asked[20:22] == b"\0\1" and answer[20:22] == b"\0\2", "a request is answered")
        mac = answer[22:28]
        need(mac in macs and answer[6:12] == mac, "with the address of what was asked for")
        need(answer[:6] == answer[32:38] == asked[22:28], "to the one who asked")
        need(answer[28:32] == asked[38:42] and answer[38:42] == asked[28:32], "by the addresses of the request")
        need(answer[12:20] == asked[12:20] and answer[42:] == asked[42:], "all else stays")

    def _check_advertisement(self, step: Step, vni: int, asked: bytes, answer: bytes) -> None:
        before, ip = ip_of(asked), ip_of(answer)
        need(
            self._is_solicitation(asked, before) and before.ttl == 255 and asked[55] == 0,
            "only solicitations (RFC 4861)",
        )
        need(is_transport_right(asked, before, ICMPV6), "only solicitations with a right checksum")
        target = asked[62:78]
        endpoint, network = self.model.endpoints.get((vni, target)), self.model.network_of(vni, target)
        macs = {endpoint.mac} if endpoint else set()
        if network and network.gateway == target and step.program == "transit_agent":
            macs.add(GATEWAY_MAC)
        need(
            len(answer) == 86 == ip.end and answer[54:56] == b"\x88\0" and ip.ttl == 255,
            "an advertisement as RFC 4861 says",
        )
        need(is_transport_right(answer, ip, ICMPV6), "its checksum is right")
        need(answer[62:78] == target == ip.source, "of the address that was asked for")
        need(answer[6:12] == answer[80:86] in macs and answer[78:80] == b"\2\1", "with its Ethernet address")
        detects = before.source == ZERO
        router = 0x80 if answer[6:12] == GATEWAY_MAC else 0
        need(
            answer[58] == router | (0x20 if detects else 0x60), "the gateway is a router; solicited unless to all nodes"
        )
        all_nodes = bytes.fromhex("ff020000000000000000000000000001")
        need(ip.destination == (all_nodes if detects else before.source), "to the one who asked, or to all nodes")
        need(answer[:6] == (b"\x33\x33\0\0\0\1" if detects else asked[6:12]), "to its Ethernet address")

    def _check_unreachable(self, head: bytes, vni: int, culprit: Ip, *, came_back: bool) -> None:
        """Hold that nothing leads there, as far as this droplet's roles go, and that the code says which it is."""
        model, v4 = self.model, is_v4(culprit.source)
        to, source = model.network_of(vni, culprit.destination), model.network_of(vni, culprit.source)
        need(not any(head[4:8]), "no word of a number")
        if head[:2] == (b"\x03\x01" if v4 else b"\x01\x03"):
            need(to and to.flags & map_layout.NETWORK_LOCAL_BOUNCER, "of its endpoints only a network's bouncer knows")
            need(came_back or (vni, culprit.destination) not in model.endpoints, "and it knows of none")
            return
        need(head[:2] == (b"\x03\x00" if v4 else b"\x01\x00"), "it says that no host or no network is there")
        need(source, "for the sender's own gateway")
        divides, vpc = model.divided_here(vni), model.vpcs.get(vni)
        lacking = not to or not to.bouncers if divides else vpc and not vpc.members
        need(lacking or (source and not source.bouncers), "no network, or no bouncer or divider that leads there")

    @staticmethod
    def _check_too_big(head: bytes, v4: bool, length: int) -> None:
        need(head[:2] == (b"\x03\x04" if v4 else b"\x02\x00"), "it says that the packet was too big")
        need(0 < int.from_bytes(head[4:8], "big") < length, "and what would have fitted")
