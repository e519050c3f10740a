"""Rules of the oracle for frames from the underlay."""

from __future__ import annotations

from fuzz_drops import PacketView, is_last_attempt
from fuzz_machine import Step
from fuzz_model import Uplink, host_of, is_v4
from fuzz_offloads import longest
from fuzz_parse import (
    ARP,
    IPV6,
    MAPPED,
    Ip,
    Tunnel,
    hides_discovery,
    read_inner,
    read_tunnel,
)
from fuzz_replies import Replies
from fuzz_rules import (
    INVALIDATE,
    LABEL_ASKING,
    MISDIRECTED,
    PROBE,
    RTS,
    ViolationError,
    accepted,
    address_in,
    asked_by,
    check_error,
    check_same,
    comes_back,
    data_packet,
    found,
    ip_of,
    is_own_misdirected,
    label_of,
    merged,
    need,
    origin_of,
    sent_out,
    uplink_of,
)

from agent.core.model import map_layout
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.datapath.bpf.outcomes import Outcome

UNLEARNT, SPEAKS_VXLAN = 4, 8


class FromUnderlay(Replies):
    """One method an outcome."""

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
                raise ViolationError("congestion of a flow that cannot signal it drops")
            check_same(after, step.out, ip, tos, ip.ttl)
            self._check_vxlan(tunnel, ip, goes_on=False)
            self._check_source_elsewhere(tunnel, ip)
            self._check_divided(tunnel, ip)
        self._check_endpoint(step, tunnel.vni, destination, longest(step, tunnel.inner), tunnel.inner)

    def _check_vxlan(self, tunnel: Tunnel, ip: Ip, *, goes_on: bool) -> None:
        """Hold what came from a peer that looks at nothing to what droplets look at."""
        if not tunnel.is_vxlan:
            return
        need(not hides_discovery(ip), "no fragment of a VXLAN peer hides neighbour discovery")
        answers = tunnel.inner[12:14] == b"\x86\xdd" and ip.protocol == 58 and tunnel.inner[54:55] == b"\x88"
        need(answers or not tunnel.inner[0] & 1, "what a VXLAN peer sends to many by Ethernet goes no further")
        source, network = (
            self.model.endpoints.get((tunnel.vni, ip.source)),
            self.model.network_of(tunnel.vni, ip.source),
        )
        need(not source or not source.ifindex, "no VXLAN peer speaks for an endpoint of this host")
        here = source is None or host_of(source.host) == host_of(tunnel.ip.source)
        need(here or not goes_on, "what goes on comes from the host that its source is on")
        if network and network.gateway == ip.source:
            kinds = {
                1: (b"\x03\x04", b"\x03\x00", b"\x03\x01", b"\x0b"),
                58: (b"\x02", b"\x03", b"\x01\x00", b"\x01\x03"),
            }.get(ip.protocol, ())
            error = tunnel.inner[ip.transport :].startswith(kinds) if kinds else False
            need(error, "of a gateway only errors come by VXLAN")

    def _check_source_elsewhere(self, tunnel: Tunnel, ip: Ip) -> None:
        sender = self.model.endpoints.get((tunnel.vni, ip.source))
        if sender and sender.ifindex and not comes_back(tunnel):
            need(origin_of(tunnel) == sender.host, "nobody elsewhere speaks for an endpoint of this host")

    def _check_divided(self, tunnel: Tunnel, ip: Ip) -> None:
        body, back = tunnel.option(RTS), comes_back(tunnel)
        between = self.model.between(tunnel.vni, ip.source, ip.destination)
        if not between or (not back and (body is None or body[1] & 2)):
            return
        endpoint = self.model.endpoints.get((tunnel.vni, ip.destination))
        network = self.model.network_of(tunnel.vni, ip.source)
        sender = network and network.flags & map_layout.NETWORK_PINNED if back else body and body[1] & 1
        pinned = sender or (endpoint and endpoint.flags & map_layout.ENDPOINT_PINNED)
        need(not pinned or self.model.divided_here(tunnel.vni), "between pinned networks a divider is passed")

    def _reflected(self, step: Step) -> None:
        tunnel, uplink = accepted(self.model, step)
        need(tunnel.flags & 0x80 and not tunnel.is_vxlan, "only control packets are reflected")
        body = tunnel.option(PROBE)
        need(body is not None and len(body) == 12 and body[0] == 1, "only a probe's request is reflected")
        need(step.leaves == step.arrival and len(step.out) == len(step.frame), "a probe goes back whole")
        back = found(self.model, step.out + b"") or self._turned(step.out)
        need(back.ip.source == uplink.address and back.ip.destination == tunnel.ip.source, "to who asked, from us")
        need(back.ip.summed and back.udp[4:] == tunnel.udp[4:], "with sums as right and finished as they were")
        need(
            (back.udp.source, back.udp.destination) == (tunnel.udp.destination, tunnel.udp.source),
            "to the port that asked",
        )
        answer = back.option(PROBE)
        need(answer and answer[0] == 2 and answer[1:] == (body or b"")[1:], "as an answer to the same request")
        need(back.inner == tunnel.inner, "with the same padding")
        need(
            (back.destination_mac, back.source_mac) == (tunnel.source_mac, tunnel.destination_mac),
            "to where it came from",
        )

    def _turned(self, frame: bytes) -> Tunnel:
        """Read a tunnel packet that goes to the port of the one who asked."""
        at = 14 + 4 * (frame[12:14] == b"\x81\0")
        at += 20 if frame[at] >> 4 == 4 else 40
        back = read_tunnel(frame, int.from_bytes(frame[at + 2 : at + 4], "big"), 0)
        if back is None:
            raise ViolationError("what is reflected is a sound tunnel packet")
        return back

    def _handed(self, step: Step) -> None:
        tunnel, uplink = data_packet(self.model, step)
        asked = asked_by(tunnel.inner)
        if asked:
            self._request_unanswered(step, tunnel, asked)
            return
        ip = ip_of(tunnel.inner)
        known = (tunnel.vni, ip.destination) in self.model.endpoints
        back = comes_back(tunnel) or step.outcome is Outcome.RETURNED
        need(known or back or not self.model.is_to_many(tunnel.vni, ip.destination), "to many nothing is handed on")
        self._check_vxlan(tunnel, ip, goes_on=True)
        sent, _ = sent_out(self.model, step, tunnel.vni)
        tos = merged(ip.tos, tunnel.ip.tos)
        if tos is None:
            raise ViolationError("congestion of a flow that cannot signal it drops")
        check_same(tunnel.inner, sent.inner, ip, tos, ip.ttl)
        need(sent.ip.tos == tunnel.ip.tos & 0xFC | tos & 3, "the class and the congestion mark travel on")
        need(sent.udp.source == tunnel.udp.source, "a flow keeps its source port")
        need(sent.ip.destination in self._next(step, tunnel, ip), "it goes on by this droplet's roles")
        returned = step.outcome is Outcome.RETURNED
        need(sent.ip.ttl == (64 if returned else tunnel.ip.ttl - 1) >= 1, "its time to live is counted")
        if returned:
            need(sent.option(INVALIDATE) == b"" and tunnel.option(RTS) is None, "what came straight goes back marked")
        elif step.outcome is Outcome.MISDIRECTED:
            self._check_misdirected(tunnel, sent)
        elif not sent.is_vxlan:
            self._check_forwarding(step, tunnel, sent, uplink)
        self._check_forwarded_label(step, tunnel, sent, ip)

    def _check_forwarded_label(self, step: Step, tunnel: Tunnel, sent: Tunnel, ip: Ip) -> None:
        """Hold a label to the received one, or to that of the local endpoint whose packet is sent anew."""
        model, vni = self.model, tunnel.vni
        want = label_of(tunnel)
        if step.outcome in (Outcome.RETURNED, Outcome.MISDIRECTED) or sent.is_vxlan:
            want = 0, False
        elif comes_back(tunnel) or is_own_misdirected(model, tunnel, ip):
            endpoint, to = model.endpoints[vni, ip.source], model.network_of(vni, ip.destination)
            sender, own = model.interfaces[endpoint.ifindex - IFINDEX_BASE], model.network_of(vni, ip.source)
            asked = to is None or to.flags & map_layout.NETWORK_LABELS
            want = sender.label if asked else 0, bool(own and own.flags & map_layout.NETWORK_LABELS)
        need(label_of(sent) == want, "a label is forwarded as it came, and sent anew with what is sent anew")
        need(sent.option(LABEL_ASKING) is None, "by bouncers, networks ask with a flag")

    @staticmethod
    def _check_misdirected(tunnel: Tunnel, sent: Tunnel) -> None:
        body, after = tunnel.option(RTS), sent.option(MISDIRECTED)
        if body is None or after is None:
            raise ViolationError("what came by a bouncer goes back marked as misdirected")
        need(not body[1] & UNLEARNT, "to no origin that is not the sender's droplet")
        need(after[0] == after[3] == 0 and after[2] == body[2], "with the attempt that it was")
        replaced = is_v4(sent.ip.source) and not is_v4(tunnel.ip.source)
        need(after[1] == (UNLEARNT if replaced else 0), "U says that the name had no room")
        need(address_in(after) == (sent.ip.source if replaced else tunnel.ip.source), "and by whom")

    def _request_unanswered(self, step: Step, tunnel: Tunnel, asked: tuple[bytes, bytes]) -> None:
        """Assert that a direct request for an endpoint on another host is returned whole."""
        sent, _ = sent_out(self.model, step, tunnel.vni)
        endpoint = self.model.endpoints.get((tunnel.vni, asked[1]))
        network = self.model.network_of(tunnel.vni, asked[1])
        need(step.outcome is Outcome.RETURNED, "a question is answered or goes back")
        need(not tunnel.is_vxlan and tunnel.option(RTS) is None, "only what came straight goes back")
        need(tunnel.option(INVALIDATE) is None, "and that once")
        knows = network and network.flags & map_layout.NETWORK_LOCAL_BOUNCER
        need(not endpoint or (not endpoint.ifindex and not knows), "who knows the endpoint answers")
        need(sent.ip.destination == tunnel.ip.source and sent.ip.ttl == 64, "to the droplet that it came from")
        need(sent.option(INVALIDATE) == b"" and sent.inner == tunnel.inner, "marked, and as it came")

    def _check_forwarding(self, step: Step, tunnel: Tunnel, sent: Tunnel, uplink: Uplink) -> None:
        body, after = tunnel.option(RTS), sent.option(RTS)
        if after is None:
            raise ViolationError("bouncers and dividers are told where to answer")
        back = comes_back(tunnel) or is_own_misdirected(self.model, tunnel, ip_of(tunnel.inner))
        need(after[0] == (body[0] if body and not back else 0) + 1 <= 4, "bounces are counted and few")
        origin = uplink.address if back else origin_of(tunnel)
        need(origin_of(sent) == origin or after[1] & UNLEARNT, "the origin stays where the sender is")
        need(back or not body or not body[1] & UNLEARNT or after[1] & UNLEARNT, "what may not be learnt stays so")
        speaks = tunnel.is_vxlan or (not back and body is not None and body[1] & SPEAKS_VXLAN)
        need(
            bool(after[1] & SPEAKS_VXLAN) == bool(speaks and origin_of(sent) == origin),
            "what the origin speaks is told",
        )

    def _next(self, step: Step, tunnel: Tunnel, ip: Ip) -> set[bytes]:
        """Return the droplets that a packet may go on to."""
        model, vni, outcome = self.model, tunnel.vni, step.outcome
        endpoint, vpc = model.endpoints.get((vni, ip.destination)), model.vpcs.get(vni)
        to, source = model.network_of(vni, ip.destination), model.network_of(vni, ip.source)
        host = {endpoint.host} if endpoint else set()
        if outcome is Outcome.RETURNED:
            return set() if endpoint else {tunnel.ip.source}
        if outcome is Outcome.MISDIRECTED:
            return set() if endpoint else {origin_of(tunnel)}
        if outcome is Outcome.BOUNCED:
            return host
        if outcome is Outcome.HANDED_TO_BOUNCER:
            return set(to.bouncers) if to and model.divided_here(vni) else set()
        if outcome is Outcome.HANDED_TO_DIVIDER:
            return set(vpc.members) if vpc else set()
        back = comes_back(tunnel) or is_own_misdirected(model, tunnel, ip)
        need(back, "only a packet that came back is sent anew")
        need(self._is_local(vni, ip.source), "only a local endpoint's packet comes back here")
        near = set(source.bouncers if source else ()) | set(to.bouncers if to and model.divided_here(vni) else ())
        return host | near | set(vpc.members if vpc else ())

    def _answer_to(self, step: Step) -> tuple[Tunnel, Tunnel]:
        tunnel, _ = data_packet(self.model, step)
        sent, _ = sent_out(self.model, step, tunnel.vni)
        need(sent.ip.destination == origin_of(tunnel), "the answer goes to the droplet of the one who asked")
        body = tunnel.option(RTS)
        speaks = tunnel.is_vxlan or (body and body[1] & SPEAKS_VXLAN and self.model.features.vxlan_port)
        need(sent.ip.ttl == 64 and sent.is_vxlan == bool(speaks), "in what the origin speaks")
        body = sent.option(RTS)
        need(sent.is_vxlan or (body and body[1] & UNLEARNT), "and teaches no path")
        need(label_of(sent) == (0, False), "a droplet's own answer has no label")
        return tunnel, sent

    def _arp_answered_remote(self, step: Step) -> None:
        tunnel, sent = self._answer_to(step)
        self._check_arp(step, tunnel.vni, tunnel.inner, sent.inner)

    def _nd_answered_remote(self, step: Step) -> None:
        tunnel, sent = self._answer_to(step)
        need(int.from_bytes(tunnel.inner[12:14], "big") == IPV6, "of neighbour discovery")
        self._check_advertisement(step, tunnel.vni, tunnel.inner, sent.inner)

    def _icmp_answered_own(self, step: Step) -> None:
        """Hold an error about a packet that came back to this host."""
        tunnel, _ = data_packet(self.model, step)
        culprit, body = ip_of(tunnel.inner), tunnel.option(RTS)
        round_ = body is not None and origin_of(tunnel) not in self.model.peers
        back = comes_back(tunnel)
        need(back or round_, "only what came back or round is told to an endpoint of this host")
        sender = self.model.endpoints.get((tunnel.vni, culprit.source))
        need(sender and step.leaves == sender.ifindex, "an ICMP error goes to its sender's interface")
        ip = check_error(self.model, step, tunnel.vni, tunnel.inner, step.out)
        head = step.out[ip.transport : ip.transport + 8]
        if is_last_attempt(PacketView(self.model, step)):
            need(head[:2] == (b"\x03\x01" if is_v4(ip.source) else b"\x01\x03"), "no bouncer finds the host")
            return
        if step.outcome is Outcome.ICMP_UNREACHABLE_SENT:
            self._check_unreachable(head, tunnel.vni, culprit, came_back=back)
            return
        self._check_too_big(head, is_v4(ip.source), longest(step, tunnel.inner) - 14)

    def _icmp_answered_remote(self, step: Step) -> None:
        tunnel, sent = self._answer_to(step)
        ip = check_error(self.model, step, tunnel.vni, tunnel.inner, sent.inner)
        head = sent.inner[ip.transport : ip.transport + 8]
        if step.outcome is Outcome.ICMP_UNREACHABLE_SENT_REMOTE:
            self._check_unreachable(head, tunnel.vni, ip_of(tunnel.inner), came_back=False)
            return
        self._check_too_big(head, is_v4(ip.source), longest(step, tunnel.inner) - 14)
