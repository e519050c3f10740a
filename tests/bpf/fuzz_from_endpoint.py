"""Rules of the oracle for frames of endpoints."""

from __future__ import annotations

import struct

from fuzz_machine import Step
from fuzz_model import GATEWAY_MAC, ZERO, Uplink, is_v4
from fuzz_offloads import finished, longest, unfinished_at
from fuzz_parse import (
    ARP,
    ICMP,
    ICMPV6,
    MAPPED,
    TCP,
    Ip,
    Tunnel,
    hides_discovery,
    is_transport_right,
    read_inner,
    total_of,
)
from fuzz_replies import Replies
from fuzz_rules import (
    ASKS,
    RTS,
    ViolationError,
    check_error,
    check_routed,
    check_same,
    inner_sums_right,
    ip_of,
    label_of,
    need,
    origin_of,
    sent_out,
)

from agent.core.model import map_layout
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.core.model.hooks import Hook
from agent.datapath.bpf.outcomes import Outcome

DIVIDED = 2


class FromEndpoint(Replies):
    """One method an outcome."""

    def _sender(self, step: Step) -> map_layout.Interface:
        need(step.program == "transit_agent", "only the transit agent ends so")
        sender = self.model.interfaces.get(step.arrival - IFINDEX_BASE)
        if sender is None:
            raise ViolationError("only known endpoints send")
        need(step.frame[6:12] == sender.mac, "nothing goes on with another Ethernet source than the endpoint's")
        return sender

    def _check_single_output(self, step: Step, sender: map_layout.Interface) -> None:
        """Hold that nothing goes on that is for many, by Ethernet or by IP, but what asks for an address."""
        kind, ip = read_inner(step.frame)
        to = MAPPED + step.frame[38:42] if kind == ARP else ip.destination if ip else ZERO
        asks = kind == ARP or (ip and self._is_solicitation(step.frame, ip))
        need(asks or not step.frame[0] & 1, "what goes to many by Ethernet goes nowhere")
        known = (sender.vni, to) in self.model.endpoints
        solicits = asks and kind != ARP
        need(known or solicits or not self.model.is_to_many(sender.vni, to), "what goes to many by IP goes nowhere")

    def _own(self, sender: map_layout.Interface, source: bytes) -> bool:
        if is_v4(source):
            return source[12:] == sender.ipv4 != bytes(4)
        return source == sender.ipv6 != ZERO

    def _same_host(self, step: Step) -> None:
        sender, ip = self._sender(step), ip_of(step.frame)
        self._check_single_output(step, sender)
        need(self._own(sender, ip.source), "nothing is delivered with a source other than its sender's")
        need(not hides_discovery(ip), "no fragment of an endpoint hides neighbour discovery")
        check_same(step.frame, step.out, ip, ip.tos, check_routed(step.frame, ip))
        self._check_endpoint(step, sender.vni, ip.destination, longest(step, step.frame), step.frame)
        endpoint = self.model.endpoints[(sender.vni, ip.destination)]
        pinned = sender.flags & map_layout.INTERFACE_PINNED or endpoint.flags & map_layout.ENDPOINT_PINNED
        between = self.model.between(sender.vni, ip.source, ip.destination)
        need(
            not pinned or not between or self.model.divided_here(sender.vni), "pinned networks: through a divider only"
        )

    def _sent(self, step: Step) -> None:
        sender = self._sender(step)
        self._check_single_output(step, sender)
        kind, ip = read_inner(step.frame)
        tunnel, uplink = sent_out(self.model, step, sender.vni, inner_right=inner_sums_right(step.frame))
        need(tunnel.udp.source >= 49152 and tunnel.ip.ttl == 64, "an ephemeral source port, a fresh time to live")
        if kind == ARP:
            need(
                step.outcome in (Outcome.SENT_TO_BOUNCER, Outcome.SENT_DIRECT) and tunnel.inner[12:] == step.frame[12:],
                "a request goes as it is, straight or by a bouncer",
            )
            need(step.frame[22:28] == sender.mac and step.frame[28:32] in (sender.ipv4, bytes(4)), "in its own name")
            source, destination, tos = MAPPED + sender.ipv4, MAPPED + step.frame[38:42], 0
        else:
            ip = ip_of(step.frame)
            source, destination, tos = self._check_inner(step, sender, tunnel, ip), ip.destination, ip.tos & 3
            if self._is_solicitation(step.frame, ip):
                destination, tos = step.frame[62:78], tunnel.ip.tos & 3
        need(tunnel.ip.tos == sender.tos & 0xFC | tos, "the class is the endpoint's, the congestion mark the packet's")
        self._check_next_hop(step, sender, tunnel, uplink, source, destination)

    def _check_inner(self, step: Step, sender: map_layout.Interface, tunnel: Tunnel, ip: Ip) -> bytes:
        """Hold the inner frame to the sender's; return the source that it goes on with."""
        before = step.frame
        if self._is_solicitation(before, ip) and ip.source != sender.ipv6:
            need(
                (ip.source[:2] == b"\xfe\x80" or ip.source == ZERO) and tunnel.inner[22:38] == sender.ipv6,
                "a solicitation gets its own source",
            )
            _, after = read_inner(tunnel.inner)
            need(is_transport_right(before, ip, ICMPV6), "only solicitations with a right checksum")
            need(after and is_transport_right(tunnel.inner, after, ICMPV6), "its checksum follows")
            before = before[:22] + tunnel.inner[22:38] + before[38:56] + tunnel.inner[56:58] + before[58:]
            ip = ip._replace(source=sender.ipv6)
        need(self._own(sender, ip.source), "nothing leaves with a source other than its sender's")
        need(not hides_discovery(ip), "no fragment of an endpoint hides neighbour discovery")
        solicits = self._is_solicitation(before, ip)
        ttl = ip.ttl if solicits else check_routed(before, ip)
        check_same(before, tunnel.inner, ip, ip.tos, ttl)
        return ip.source

    def _check_next_hop(
        self, step: Step, sender: map_layout.Interface, tunnel: Tunnel, uplink: Uplink, source: bytes, to: bytes
    ) -> None:
        model, vni, peer = self.model, sender.vni, tunnel.ip.destination
        endpoint, network = model.endpoints.get((vni, to)), model.network_of(vni, source)
        path = step.before.get(map_layout.OVERLAY_KEY.pack(vni, to))
        if step.outcome is Outcome.SENT_DIRECT:
            ways = {(endpoint.host, endpoint.flags & map_layout.ENDPOINT_PINNED)} if endpoint else set()
            if path:
                ways.add((path[:16], path[16] & map_layout.PATH_PINNED))
            free = not model.between(vni, source, to) or model.divided_here(vni)
            need(peer in dict(ways), "directly to where documents or packets said it is")
            pinned = sender.flags & map_layout.INTERFACE_PINNED or all(flags for host, flags in ways if host == peer)
            need(not pinned or free, "pinned: never directly")
            down = model.hops[(peer, model.uplinks[sender.droplet].interface)].flags & map_layout.NEXT_HOP_DOWN
            bouncer = network and network.flags & map_layout.NETWORK_LOCAL_BOUNCER  # which knows no other way
            need(not down or bouncer, "never directly to one that is down, but by its bouncer")
            need(tunnel.option(RTS) is None, "a direct packet is to be answered where it came from")
            asked = {bool(labels) for host, labels in self._labels_asked(endpoint, path) if host == peer}
            self._check_label(tunnel, sender, asked)
            vxlan = endpoint and endpoint.flags & map_layout.ENDPOINT_VXLAN
            need(not tunnel.is_vxlan or vxlan, "VXLAN only to endpoints that speak it")
            return
        vpc, other = model.vpcs.get(vni), model.network_of(vni, to)
        allowed = {
            Outcome.SENT_TO_BOUNCER: network.bouncers if network else (),
            Outcome.HANDED_TO_BOUNCER: other.bouncers if other and model.divided_here(vni) else (),
        }.get(step.outcome, vpc.members if vpc else ())
        need(peer in allowed, "to a bouncer of its network, or a divider of its VPC")
        divided = DIVIDED if step.outcome is Outcome.HANDED_TO_BOUNCER else 0
        flags = sender.flags & map_layout.INTERFACE_PINNED | divided
        flags |= ASKS if sender.flags & map_layout.INTERFACE_LABELS else 0
        self._check_rts(tunnel, uplink.address, 0, flags)
        self._check_label(tunnel, sender, {other is None or bool(other.flags & map_layout.NETWORK_LABELS)})

    @staticmethod
    def _labels_asked(endpoint: map_layout.Endpoint | None, path: bytes | None) -> list[tuple[bytes, int]]:
        """Return the hosts of an endpoint, by documents and packets, and whether its network asks for labels."""
        ways = [(endpoint.host, endpoint.flags & map_layout.ENDPOINT_LABELS)] if endpoint else []
        return [*ways, (path[:16], path[16] & map_layout.PATH_LABELS)] if path else ways

    @staticmethod
    def _check_label(tunnel: Tunnel, sender: map_layout.Interface, asked: set[bool]) -> None:
        """Assert that the label is there if it is asked for; `asked` has both if that cannot be told."""
        label, asks = label_of(tunnel)
        need(
            label in {sender.label if one else 0 for one in asked} or tunnel.is_vxlan, "labels where they are asked for"
        )
        need(not label or label == sender.label, "an endpoint sends its own label")
        need(tunnel.is_vxlan or asks == bool(sender.flags & map_layout.INTERFACE_LABELS), "its network asks, or not")

    def _check_rts(self, tunnel: Tunnel, origin: bytes, bounces: int, flags: int) -> None:
        body = tunnel.option(RTS)
        if body is None:
            raise ViolationError("bouncers and dividers are told where to answer")
        need(body[0] == bounces and body[1] == flags and body[2] < 16 and body[3] == 0, "bounces and flags are true")
        need(len(body) == (8 if is_v4(tunnel.ip.source) else 20), "the origin is of the underlay's family")
        need(origin_of(tunnel) == origin, "the origin is where the sender is")

    def _arp_answered(self, step: Step) -> None:
        sender = self._sender(step)
        need(step.frame[22:28] == sender.mac and step.frame[28:32] in (sender.ipv4, bytes(4)), "only its own requests")
        self._check_arp(step, sender.vni, step.frame, step.out)
        need(step.leaves == step.arrival, "an answer goes back")

    def _nd_answered(self, step: Step) -> None:
        sender = self._sender(step)
        need(sender.ipv6 != ZERO, "only who has an IPv6 address asks for others")
        self._check_advertisement(step, sender.vni, step.frame, step.out)
        need(step.leaves == step.arrival, "an answer goes back")

    def _echo(self, step: Step) -> None:
        sender, ip, answer = self._sender(step), ip_of(step.frame), ip_of(step.out)
        network = self.model.network_of(sender.vni, ip.source)
        need(self._own(sender, ip.source) and network and ip.destination == network.gateway, "its own gateway answers")
        need((answer.source, answer.destination) == (ip.destination, ip.source), "addresses change places")
        v4 = is_v4(ip.source)
        kinds = step.frame[ip.transport : ip.transport + 1], step.out[answer.transport : answer.transport + 1]
        need(ip.later or kinds == ((b"\x08", b"\0") if v4 else (b"\x80", b"\x81")), "an echo")
        same = 0 if ip.later else 4
        need(step.out[:12] == sender.mac + GATEWAY_MAC and step.leaves == step.arrival, "it goes back")
        need(step.out[answer.transport + same :] == step.frame[ip.transport + same :], "with the same content")
        need(answer.summed == ip.summed, "a right IPv4 checksum stays right")
        protocol = ICMP if v4 else ICMPV6
        need(
            ip.protocol == protocol and self._icmp_right(step.out, answer) == self._icmp_right(step.frame, ip),
            "and ICMP's",
        )

    @staticmethod
    def _icmp_right(frame: bytes, ip: Ip) -> bool:
        if ip.protocol == ICMPV6:
            return is_transport_right(frame, ip, ICMPV6)
        return total_of(frame[ip.transport : ip.end]) == 0xFFFF

    def _check_reset(self, step: Step, sender: map_layout.Interface, about: Ip) -> None:
        """Hold a reset to RFC 9293 section 3.10.7.1."""
        ip, network = ip_of(step.out), self.model.network_of(sender.vni, about.source)
        need(network and about.destination == network.gateway == ip.source, "only its own gateway resets")
        need(self._own(sender, about.source) and ip.destination == about.source, "the one who sent")
        need(step.out[:12] == sender.mac + GATEWAY_MAC and step.leaves == step.arrival, "it goes back")
        need(ip.protocol == TCP and ip.plain and ip.summed and ip.end == len(step.out), "a plain packet")
        left_to_device = step.hook is Hook.TC and unfinished_at(step.frame)  # which still knows the frame as such
        out = finished(step.out) if left_to_device else step.out
        need(is_transport_right(out, ip, TCP) and ip.end - ip.transport == 20, "a right TCP header alone")
        was, now = (struct.unpack_from("!HHIIH", f, i.transport) for f, i in ((step.frame, about), (step.out, ip)))
        need(not was[4] & 4 and now[:2] == (was[1], was[0]), "no reset about a reset; ports change places")
        length = about.end - about.transport - (was[4] >> 12) * 4 + bool(was[4] & 2) + (was[4] & 1)
        want = (was[3], 0, 0x5004) if was[4] & 16 else (0, (was[2] + length) & 0xFFFFFFFF, 0x5014)
        need(now[2:] == want, "sequence, acknowledgement and flags")

    def _icmp_answered(self, step: Step) -> None:
        sender, about = self._sender(step), ip_of(step.frame)
        answer = ip_of(step.out)
        if step.outcome is Outcome.GATEWAY_REFUSED and answer.protocol == TCP:
            self._check_reset(step, sender, about)
            return
        ip = check_error(self.model, step, sender.vni, step.frame, step.out)
        need(step.leaves == step.arrival, "an ICMP error goes back")
        need(self._own(sender, about.source), "only own packets are complained about")
        head, v4 = step.out[ip.transport : ip.transport + 8], is_v4(ip.source)
        if step.outcome is Outcome.ICMP_TTL_EXCEEDED_SENT:
            kind = b"\x0b\0" if v4 else b"\x03\0"
            need(head[:2] == kind and about.ttl <= 1 and not any(head[4:8]), "time to live is used up")
        elif step.outcome is Outcome.ICMP_UNREACHABLE_SENT:
            self._check_unreachable(head, sender.vni, about, came_back=False)
        elif step.outcome is Outcome.GATEWAY_REFUSED:
            self._check_refused(step, head, about)
        else:
            self._check_too_big(head, v4, longest(step, step.frame) - 14)

    def _check_refused(self, step: Step, head: bytes, about: Ip) -> None:
        network = self.model.network_of(self._sender(step).vni, about.source)
        need(network and about.destination == network.gateway, "only its own gateway refuses")
        v4, has_ports = is_v4(about.source), about.protocol in (6, 17, 33, 132, 136)
        need(about.protocol != (ICMP if v4 else ICMPV6), "ICMP is answered or left alone")
        want = (b"\x03\x02", 0) if v4 else (b"\x04\x01", 6)
        if has_ports:
            want = (b"\x03\x03" if v4 else b"\x01\x04", 0)
        need((head[:2], int.from_bytes(head[4:8], "big")) == want, "it has no such port or knows no such protocol")
        need(want[1] == 0 or step.frame[14 + want[1]] == about.protocol, "the error points to the protocol")
