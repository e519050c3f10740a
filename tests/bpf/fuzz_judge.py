"""Holds what became of a frame against the world, by an own reading of frame, answer and standards: one method an outcome."""

from __future__ import annotations

from collections.abc import Callable

from fuzz_machine import Step
from fuzz_model import GATEWAY_MAC, ZERO, Model, Uplink, is_v4
from fuzz_parse import ARP, ICMP, ICMPV6, IPV6, MAPPED, Ip, Tunnel, is_transport_right, read_inner, read_tunnel, total_of
from fuzz_rules import (
    INVALIDATE,
    PROBE,
    RTS,
    Violation,
    accepted,
    data_packet,
    found,
    hold_error,
    hold_routed,
    hold_same,
    inner_sums_right,
    ip_of,
    merged,
    need,
    origin_of,
    sent_out,
    uplink_of,
)

from agent.core import layout
from agent.core.realize import IFINDEX_BASE
from agent.datapath.bpf_syscall import XdpAction
from agent.datapath.outcomes import ANSWERED, DROPPED, FORWARDED, PASSED, Outcome

SENT = {Outcome.SENT_DIRECT, Outcome.SENT_TO_BOUNCER, Outcome.SENT_TO_DIVIDER}
HANDED = {Outcome.BOUNCED, Outcome.HANDED_TO_BOUNCER, Outcome.HANDED_TO_DIVIDER, Outcome.RETURNED, Outcome.REROUTED}
DIVIDED, UNLEARNT = 2, 4
"""Flags of RTS."""


class Judge:
    """One world's judge."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._rules: dict[Outcome, Callable[[Step], None]] = {
            Outcome.PASSED: self._passed,
            Outcome.DELIVERED: self._delivered,
            Outcome.DELIVERED_SAME_HOST: self._same_host,
            Outcome.ARP_ANSWERED: self._arp_answered,
            Outcome.ND_ANSWERED: self._nd_answered,
            Outcome.GATEWAY_ECHO: self._echo,
            Outcome.TOO_BIG_TOLD: self._told,
            Outcome.TTL_TOLD: self._told,
            Outcome.PROBE_REFLECTED: self._reflected,
            Outcome.ARP_ANSWERED_REMOTE: self._arp_answered_remote,
            Outcome.ND_ANSWERED_REMOTE: self._nd_answered_remote,
            Outcome.TOO_BIG_TOLD_REMOTE: self._told_remote,
            **dict.fromkeys(SENT, self._sent),
            **dict.fromkeys(HANDED, self._handed),
            Outcome.HANDED_TO_BOUNCER: self._by_role,
            Outcome.HANDED_TO_DIVIDER: self._by_role,
        }

    def judge(self, step: Step) -> None:
        """Raise Violation, naming the rule that was broken."""
        outcome = step.outcome
        verdict = XdpAction.PASS if outcome in PASSED else XdpAction.REDIRECT
        need(step.verdict == (XdpAction.DROP if outcome in DROPPED else verdict), "the verdict is the outcome's")
        need(bool(step.leaves) == (step.verdict == XdpAction.REDIRECT), "only what goes on is redirected")
        self._hold_traffic(step)
        self._hold_paths(step)
        if outcome not in DROPPED:
            self._rules[outcome](step)

    # Books and maps

    def _hold_traffic(self, step: Step) -> None:
        want: dict[int, list[int]] = {}
        length, outcome = len(step.frame), step.outcome
        slot = step.arrival - IFINDEX_BASE
        if step.program == "transit_agent" and slot in self.model.interfaces and outcome not in ANSWERED:
            row = want.setdefault(slot, [0] * 8)
            row[0:2] = (1, length) if outcome in FORWARDED else (0, 0)
            row[2:4] = (1, length) if outcome in (Outcome.SENT_DIRECT, Outcome.DELIVERED_SAME_HOST) else (0, 0)
            row[6:8] = (1, length) if outcome in DROPPED else (0, 0)
        if outcome in (Outcome.DELIVERED, Outcome.DELIVERED_SAME_HOST):
            if outcome is Outcome.DELIVERED:
                length = len(data_packet(self.model, step)[0].inner)
            want.setdefault(step.leaves - IFINDEX_BASE, [0] * 8)[4:6] = (1, length)
        need(step.traffic == {slot: tuple(row) for slot, row in want.items()}, "endpoints' counters say what happened")

    def _hold_paths(self, step: Step) -> None:
        """Only delivery teaches, of droplets that are known; only a packet that came back makes forget."""
        if step.before == step.after:
            return
        written = {key: value for key, value in step.after.items() if step.before.get(key) != value}
        gone = step.before.keys() - step.after.keys()
        tunnel, _ = data_packet(self.model, step)
        ip = ip_of(tunnel.inner)
        if written:
            reached = step.outcome in (Outcome.DELIVERED, Outcome.TOO_BIG, Outcome.TOO_BIG_TOLD_REMOTE)
            need(reached and len(written) == 1 and not gone, "only what reached its endpoint's droplet teaches a path")
            need(self._is_local(tunnel.vni, ip.destination), "a path is learnt for an endpoint of this host")
            (key, value), *_ = written.items()
            need(layout.OVERLAY_KEY.unpack(key) == (tunnel.vni, ip.source), "a path is to the sender, in its VPC")
            host = layout.DIRECT_PATH.unpack(value)[0]
            need(host in self.model.peers, "a path leads to a known droplet")
            need(host == origin_of(tunnel), "a path leads to where the sender is")
            local = self.model.endpoints.get((tunnel.vni, ip.source))
            need(not local or not local.ifindex and local.host == host, "documents know better than packets")
            need(not tunnel.is_vxlan and tunnel.option(INVALIDATE) is None, "VXLAN and what came back teach nothing")
        if gone:
            need(tunnel.option(INVALIDATE) is not None, "only a packet that came back makes forget")
            need(gone == {layout.OVERLAY_KEY.pack(tunnel.vni, ip.destination)}, "the path to its destination is forgotten")
            need(self._is_local(tunnel.vni, ip.source), "only a local endpoint's packet comes back here")
            (key,) = gone
            need(layout.DIRECT_PATH.unpack(step.before[key])[0] == tunnel.ip.source, "by the droplet that it led to")

    def _is_local(self, vni: int, address: bytes) -> bool:
        endpoint = self.model.endpoints.get((vni, address))
        return bool(endpoint and endpoint.ifindex)

    # From the substrate

    def _passed(self, step: Step) -> None:
        need(step.program == "transit_xdp" and step.out == step.frame, "what passes is as it came, never an endpoint's")
        tunnel = found(self.model, step.frame)
        need(not tunnel or not tunnel.ip.plain or not uplink_of(self.model, step.arrival, tunnel),
             "a tunnel packet to a droplet of this host does not reach its stack")  # fmt: skip

    def _delivered(self, step: Step) -> None:
        tunnel, _ = data_packet(self.model, step)
        after = step.frame[tunnel.udp.end - len(tunnel.inner) :]
        kind, ip = read_inner(tunnel.inner)
        if kind == ARP:
            need(tunnel.inner[20:22] == b"\0\2", "of ARP only answers are delivered")
            destination = MAPPED + tunnel.inner[38:42]
            need(after[12:] == step.out[12:], "an ARP answer stays as it is")
        else:
            ip = ip_of(tunnel.inner)
            destination = ip.destination
            tos = merged(ip.tos, tunnel.ip.tos)
            if tos is None:
                raise Violation("congestion of a flow that cannot signal it drops")
            hold_same(after, step.out, ip, tos, ip.ttl)
            self._hold_source_elsewhere(tunnel, ip)
            self._hold_divided(tunnel, ip)
        self._hold_endpoint(step, tunnel.vni, destination, len(tunnel.inner), tunnel.inner)

    def _hold_endpoint(self, step: Step, vni: int, destination: bytes, length: int, before: bytes) -> None:
        endpoint = self.model.endpoints.get((vni, destination))
        if endpoint is None:
            raise Violation("what is delivered is for an endpoint of the VPC that the tunnel named")
        need(step.leaves == endpoint.ifindex, "what is delivered goes to its endpoint")
        need(self.model.interfaces[step.leaves - IFINDEX_BASE].vni == vni, "no delivery across VPCs")
        need(step.out[:6] == endpoint.mac, "its Ethernet destination is the endpoint's")
        source = GATEWAY_MAC if before[:6] == GATEWAY_MAC else before[6:12]
        need(step.out[6:12] == source, "its Ethernet source is the sender's, or the gateway's")
        need(length <= 14 + endpoint.mtu or before[12:14] == b"\x08\x06", "it fits the endpoint's MTU")

    def _hold_source_elsewhere(self, tunnel: Tunnel, ip: Ip) -> None:
        sender = self.model.endpoints.get((tunnel.vni, ip.source))
        if sender and sender.ifindex and tunnel.option(INVALIDATE) is None:
            need(origin_of(tunnel) == sender.host, "nobody elsewhere speaks for an endpoint of this host")

    def _hold_divided(self, tunnel: Tunnel, ip: Ip) -> None:
        body = tunnel.option(RTS)
        if body is None or body[1] & 2 or not self.model.between(tunnel.vni, ip.source, ip.destination):
            return
        endpoint = self.model.endpoints.get((tunnel.vni, ip.destination))
        pinned = body[1] & 1 or (endpoint and endpoint.flags & layout.ENDPOINT_PINNED)
        need(not pinned or self.model.divided_here(tunnel.vni), "between pinned networks a divider is passed")

    def _reflected(self, step: Step) -> None:
        tunnel, uplink = accepted(self.model, step)
        need(tunnel.flags & 0x80 and not tunnel.is_vxlan, "only control packets are reflected")
        body = tunnel.option(PROBE)
        need(body is not None and len(body) == 12 and body[0] == 1, "only a probe's request is reflected")
        need(step.leaves == step.arrival and len(step.out) == len(step.frame), "a probe goes back whole")
        back = found(self.model, step.out + b"") or self._turned(step.out)
        need(back.ip.source == uplink.address and back.ip.destination == tunnel.ip.source, "to who asked, from us")
        need(back.ip.summed and back.udp.check is tunnel.udp.check, "with right sums")
        need((back.udp.source, back.udp.destination) == (tunnel.udp.destination, tunnel.udp.source), "to the port that asked")
        answer = back.option(PROBE)
        need(answer and answer[0] == 2 and answer[1:] == (body or b"")[1:], "as an answer to the same request")
        need(back.inner == tunnel.inner, "with the same padding")
        need((back.destination_mac, back.source_mac) == (tunnel.source_mac, tunnel.destination_mac), "to where it came from")

    def _turned(self, frame: bytes) -> Tunnel:
        """Read a tunnel packet that goes to the port of the one who asked."""
        at = 14 + 4 * (frame[12:14] == b"\x81\0")
        at += 20 if frame[at] >> 4 == 4 else 40
        back = read_tunnel(frame, int.from_bytes(frame[at + 2 : at + 4], "big"), 0)
        if back is None:
            raise Violation("what is reflected is a sound tunnel packet")
        return back

    # From endpoints

    def _sender(self, step: Step) -> layout.Interface:
        need(step.program == "transit_agent", "only the transit agent ends so")
        sender = self.model.interfaces.get(step.arrival - IFINDEX_BASE)
        if sender is None:
            raise Violation("only known endpoints send")
        need(step.frame[6:12] == sender.mac, "nothing goes on with another Ethernet source than the endpoint's")
        return sender

    def _own(self, sender: layout.Interface, source: bytes) -> bool:
        if is_v4(source):
            return source[12:] == sender.ipv4 != bytes(4)
        return source == sender.ipv6 != ZERO

    def _same_host(self, step: Step) -> None:
        sender, ip = self._sender(step), ip_of(step.frame)
        need(self._own(sender, ip.source), "nothing is delivered with a source other than its sender's")
        hold_same(step.frame, step.out, ip, ip.tos, hold_routed(step.frame, ip))
        self._hold_endpoint(step, sender.vni, ip.destination, len(step.frame), step.frame)
        endpoint = self.model.endpoints[(sender.vni, ip.destination)]
        pinned = sender.flags & layout.INTERFACE_PINNED or endpoint.flags & layout.ENDPOINT_PINNED
        between = self.model.between(sender.vni, ip.source, ip.destination)
        need(not pinned or not between or self.model.divided_here(sender.vni), "pinned networks: through a divider only")

    def _sent(self, step: Step) -> None:
        sender = self._sender(step)
        kind, ip = read_inner(step.frame)
        tunnel, uplink = sent_out(self.model, step, sender.vni, inner_right=inner_sums_right(step.frame))
        need(tunnel.udp.source >= 49152 and tunnel.ip.ttl == 64, "an ephemeral source port, a fresh time to live")
        if kind == ARP:
            need(step.outcome is Outcome.SENT_TO_BOUNCER and tunnel.inner[12:] == step.frame[12:], "a request goes as it is")
            need(step.frame[22:28] == sender.mac and step.frame[28:32] in (sender.ipv4, bytes(4)), "in its own name")
            source, destination, tos = MAPPED + sender.ipv4, MAPPED + step.frame[38:42], 0
        else:
            ip = ip_of(step.frame)
            source, destination, tos = self._hold_inner(step, sender, tunnel, ip), ip.destination, ip.tos & 3
            if self._is_solicitation(step.frame, ip):
                destination, tos = step.frame[62:78], tunnel.ip.tos & 3
        need(tunnel.ip.tos == sender.tos & 0xFC | tos, "the class is the endpoint's, the congestion mark the packet's")
        self._hold_way(step, sender, tunnel, uplink, source, destination)

    @staticmethod
    def _is_solicitation(frame: bytes, ip: Ip) -> bool:
        return frame[12:14] == b"\x86\xdd" and ip.protocol == ICMPV6 and ip.plain and frame[54:55] == b"\x87"

    def _hold_inner(self, step: Step, sender: layout.Interface, tunnel: Tunnel, ip: Ip) -> bytes:
        """Hold the inner frame to the sender's; return the source that it goes on with."""
        before = step.frame
        if self._is_solicitation(before, ip) and ip.source != sender.ipv6:
            need(ip.source[:2] == b"\xfe\x80" and tunnel.inner[22:38] == sender.ipv6, "a solicitation gets its own source")
            _, after = read_inner(tunnel.inner)
            right = is_transport_right(before, ip, ICMPV6)
            need(after and is_transport_right(tunnel.inner, after, ICMPV6) == right, "its checksum follows")
            before = before[:22] + tunnel.inner[22:38] + before[38:56] + tunnel.inner[56:58] + before[58:]
            ip = ip._replace(source=sender.ipv6)
        need(self._own(sender, ip.source), "nothing leaves with a source other than its sender's")
        solicits = self._is_solicitation(before, ip)
        ttl = ip.ttl if solicits else hold_routed(before, ip)
        hold_same(before, tunnel.inner, ip, ip.tos, ttl)
        return ip.source

    def _hold_way(
        self, step: Step, sender: layout.Interface, tunnel: Tunnel, uplink: Uplink, source: bytes, to: bytes
    ) -> None:
        model, vni, peer = self.model, sender.vni, tunnel.ip.destination
        endpoint, network = model.endpoints.get((vni, to)), model.network_of(vni, source)
        path = step.before.get(layout.OVERLAY_KEY.pack(vni, to))
        if step.outcome is Outcome.SENT_DIRECT:
            ways = {(endpoint.host, endpoint.flags & layout.ENDPOINT_PINNED)} if endpoint else set()
            if path:
                ways.add((path[:16], path[16] & layout.PATH_PINNED))
            free = not model.between(vni, source, to) or model.divided_here(vni)
            need(peer in dict(ways), "directly to where documents or packets said it is")
            pinned = sender.flags & layout.INTERFACE_PINNED or all(flags for host, flags in ways if host == peer)
            need(not pinned or free, "pinned: never directly")
            need(not model.hops[(peer, uplink.interface)].flags & layout.NEXT_HOP_DOWN
                 or uplink != model.uplinks.get(sender.droplet), "never directly to a droplet that is down")  # fmt: skip
            need(not tunnel.options, "a direct packet carries no options")
            vxlan = endpoint and endpoint.flags & layout.ENDPOINT_VXLAN
            need(not tunnel.is_vxlan or vxlan, "VXLAN only to endpoints that speak it")
            return
        vpc, other = model.vpcs.get(vni), model.network_of(vni, to)
        allowed = {
            Outcome.SENT_TO_BOUNCER: network.bouncers if network else (),
            Outcome.HANDED_TO_BOUNCER: other.bouncers if other and model.divided_here(vni) else (),
        }.get(step.outcome, vpc.members if vpc else ())
        need(peer in allowed, "to a bouncer of its network, or a divider of its VPC")
        divided = DIVIDED if step.outcome is Outcome.HANDED_TO_BOUNCER else 0
        self._hold_rts(tunnel, uplink.address, 0, sender.flags & layout.INTERFACE_PINNED | divided)

    def _hold_rts(self, tunnel: Tunnel, origin: bytes, bounces: int, flags: int) -> None:
        body = tunnel.option(RTS)
        if body is None:
            raise Violation("bouncers and dividers are told where to answer")
        need(body[0] == bounces and body[1] == flags and body[2:4] == b"\0\0", "bounces and flags are true")
        need(len(body) == (8 if is_v4(tunnel.ip.source) else 20), "the origin is of the substrate's family")
        need(origin_of(tunnel) == origin, "the origin is where the sender is")

    def _arp_answered(self, step: Step) -> None:
        sender = self._sender(step)
        need(step.frame[22:28] == sender.mac and step.frame[28:32] in (sender.ipv4, bytes(4)), "only its own requests")
        self._hold_arp(step, sender.vni, step.frame, step.out)
        need(step.leaves == step.arrival, "an answer goes back")

    def _hold_arp(self, step: Step, vni: int, asked: bytes, answer: bytes) -> None:
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

    def _nd_answered(self, step: Step) -> None:
        sender = self._sender(step)
        need(sender.ipv6 != ZERO, "only who has an IPv6 address asks for others")
        self._hold_advertisement(step, sender.vni, step.frame, step.out)
        need(step.leaves == step.arrival, "an answer goes back")

    def _hold_advertisement(self, step: Step, vni: int, asked: bytes, answer: bytes) -> None:
        before, ip = ip_of(asked), ip_of(answer)
        need(self._is_solicitation(asked, before) and before.ttl == 255 and asked[55] == 0, "only solicitations (RFC 4861)")
        target = asked[62:78]
        endpoint, network = self.model.endpoints.get((vni, target)), self.model.network_of(vni, target)
        macs = {endpoint.mac} if endpoint else set()
        if network and network.gateway == target and step.program == "transit_agent":
            macs.add(GATEWAY_MAC)
        need(len(answer) == 86 == ip.end and answer[54:56] == b"\x88\0" and ip.ttl == 255, "an advertisement as RFC 4861 says")
        need(is_transport_right(answer, ip, ICMPV6), "its checksum is right")
        need(answer[62:78] == target == ip.source, "of the address that was asked for")
        need(answer[6:12] == answer[80:86] in macs and answer[78:80] == b"\2\1", "with its Ethernet address")
        detects = before.source == ZERO
        router = 0x80 if answer[6:12] == GATEWAY_MAC else 0
        need(answer[58] == router | (0x20 if detects else 0x60), "the gateway is a router; solicited unless to all nodes")
        all_nodes = bytes.fromhex("ff020000000000000000000000000001")
        need(ip.destination == (all_nodes if detects else before.source), "to the one who asked, or to all nodes")
        need(answer[:6] == (b"\x33\x33\0\0\0\1" if detects else asked[6:12]), "to its Ethernet address")

    def _echo(self, step: Step) -> None:
        sender, ip, answer = self._sender(step), ip_of(step.frame), ip_of(step.out)
        network = self.model.network_of(sender.vni, ip.source)
        need(self._own(sender, ip.source) and network and ip.destination == network.gateway, "its own gateway answers")
        need((answer.source, answer.destination) == (ip.destination, ip.source), "addresses change places")
        v4 = is_v4(ip.source)
        need(step.out[answer.transport] == (0 if v4 else 129) and step.frame[ip.transport] == (8 if v4 else 128), "an echo")
        need(step.out[:12] == sender.mac + GATEWAY_MAC and step.leaves == step.arrival, "it goes back")
        need(step.out[answer.transport + 4 :] == step.frame[ip.transport + 4 :], "with the same content")
        need(answer.summed == ip.summed, "a right IPv4 checksum stays right")
        protocol = ICMP if v4 else ICMPV6
        need(ip.protocol == protocol and self._icmp_right(step.out, answer) == self._icmp_right(step.frame, ip), "and ICMP's")

    @staticmethod
    def _icmp_right(frame: bytes, ip: Ip) -> bool:
        if ip.protocol == ICMPV6:
            return is_transport_right(frame, ip, ICMPV6)
        return total_of(frame[ip.transport : ip.end]) == 0xFFFF

    def _told(self, step: Step) -> None:
        sender, about = self._sender(step), ip_of(step.frame)
        frame = step.frame
        if self._is_solicitation(frame, about) and about.source != sender.ipv6:  # it would have gone on in its own name
            frame = frame[:22] + sender.ipv6 + frame[38:56] + step.out[104:106] + frame[58:]
        ip = hold_error(self.model, sender.vni, frame, step.out)
        need(step.leaves == step.arrival, "an ICMP error goes back")
        need(self._own(sender, about.source) or about.source[:2] == b"\xfe\x80", "only own packets are complained about")
        head = step.out[ip.transport : ip.transport + 8]
        if step.outcome is Outcome.TTL_TOLD:
            need(head[:2] in (b"\x0b\0", b"\x03\0") and about.ttl <= 1 and not any(head[4:8]), "time to live is used up")
        else:
            self._hold_too_big(head, is_v4(ip.source), len(step.frame) - 14)

    @staticmethod
    def _hold_too_big(head: bytes, v4: bool, length: int) -> None:
        need(head[:2] == (b"\x03\x04" if v4 else b"\x02\x00"), "it says that the packet was too big")
        need(0 < int.from_bytes(head[4:8], "big") < length, "and what would have fitted")

    # On to other droplets

    def _by_role(self, step: Step) -> None:
        """An endpoint's packet too goes by the roles of its droplet, when that bounces its network."""
        (self._sent if step.program == "transit_agent" else self._handed)(step)

    def _handed(self, step: Step) -> None:
        tunnel, uplink = data_packet(self.model, step)
        ip = ip_of(tunnel.inner)
        sent, by = sent_out(self.model, step, tunnel.vni)
        tos = merged(ip.tos, tunnel.ip.tos)
        if tos is None:
            raise Violation("congestion of a flow that cannot signal it drops")
        hold_same(tunnel.inner, sent.inner, ip, tos, ip.ttl)
        need(sent.ip.tos == tunnel.ip.tos & 0xFC | tos & 3, "the class and the congestion mark travel on")
        need(sent.udp.source == tunnel.udp.source, "a flow keeps its source port")
        need(sent.ip.destination in self._next(step, tunnel, ip), "it goes on by this droplet's roles")
        returned = step.outcome is Outcome.RETURNED
        need(sent.ip.ttl == (64 if returned else tunnel.ip.ttl - 1) >= 1, "its time to live is counted")
        if returned:
            need(sent.option(INVALIDATE) == b"" and tunnel.option(RTS) is None, "what came straight goes back marked")
        elif not sent.is_vxlan:
            self._hold_way_on(step, tunnel, sent, uplink)

    def _hold_way_on(self, step: Step, tunnel: Tunnel, sent: Tunnel, uplink: Uplink) -> None:
        body, after = tunnel.option(RTS), sent.option(RTS)
        if after is None:
            raise Violation("bouncers and dividers are told where to answer")
        need(after[0] == (body[0] if body else 0) + 1 <= 4, "bounces are counted and few")
        origin = uplink.address if step.outcome is Outcome.REROUTED else origin_of(tunnel)
        need(origin_of(sent) == origin or after[1] & UNLEARNT, "the origin stays where the sender is")
        need(not body or not body[1] & UNLEARNT or after[1] & UNLEARNT or step.outcome is Outcome.REROUTED,
             "what may not be learnt stays so")  # fmt: skip

    def _next(self, step: Step, tunnel: Tunnel, ip: Ip) -> set[bytes]:
        """Return the droplets that a packet may go on to."""
        model, vni, outcome = self.model, tunnel.vni, step.outcome
        endpoint, vpc = model.endpoints.get((vni, ip.destination)), model.vpcs.get(vni)
        to, source = model.network_of(vni, ip.destination), model.network_of(vni, ip.source)
        host = {endpoint.host} if endpoint else set()
        if outcome is Outcome.RETURNED:
            return set() if endpoint else {tunnel.ip.source}
        if outcome is Outcome.BOUNCED:
            return host
        if outcome is Outcome.HANDED_TO_BOUNCER:
            return set(to.bouncers) if to and model.divided_here(vni) else set()
        if outcome is Outcome.HANDED_TO_DIVIDER:
            return set(vpc.members) if vpc else set()
        need(tunnel.option(INVALIDATE) is not None, "only a packet that came back is sent anew")
        need(self._is_local(vni, ip.source), "only a local endpoint's packet comes back here")
        near = set(source.bouncers if source else ()) | set(to.bouncers if to and model.divided_here(vni) else ())
        return host | near | set(vpc.members if vpc else ())

    def _answer_to(self, step: Step) -> tuple[Tunnel, Tunnel]:
        tunnel, _ = data_packet(self.model, step)
        sent, _ = sent_out(self.model, step, tunnel.vni)
        need(sent.ip.destination == origin_of(tunnel), "the answer goes to the droplet of the one who asked")
        need(sent.ip.ttl == 64 and sent.is_vxlan == tunnel.is_vxlan, "as it came")
        body = sent.option(RTS)
        need(sent.is_vxlan or (body and body[1] & UNLEARNT), "and teaches no path")
        return tunnel, sent

    def _arp_answered_remote(self, step: Step) -> None:
        tunnel, sent = self._answer_to(step)
        self._hold_arp(step, tunnel.vni, tunnel.inner, sent.inner)

    def _nd_answered_remote(self, step: Step) -> None:
        tunnel, sent = self._answer_to(step)
        need(int.from_bytes(tunnel.inner[12:14], "big") == IPV6, "of neighbour discovery")
        self._hold_advertisement(step, tunnel.vni, tunnel.inner, sent.inner)

    def _told_remote(self, step: Step) -> None:
        tunnel, sent = self._answer_to(step)
        ip = hold_error(self.model, tunnel.vni, tunnel.inner, sent.inner)
        head = sent.inner[ip.transport : ip.transport + 8]
        self._hold_too_big(head, is_v4(ip.source), len(tunnel.inner) - 14)
