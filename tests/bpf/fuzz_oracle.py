"""Checks the result of a frame against configuration and standards, with a parser of its own."""

from __future__ import annotations

from collections.abc import Callable

from fuzz_drops import is_true
from fuzz_from_endpoint import FromEndpoint
from fuzz_from_underlay import FromUnderlay
from fuzz_machine import Step
from fuzz_model import Model
from fuzz_offloads import is_counted_right, is_gso_of_udp, longest
from fuzz_parse import Tunnel
from fuzz_rules import (
    asked_by,
    comes_back,
    data_packet,
    ip_of,
    is_own_misdirected,
    label_of,
    need,
    origin_of,
)

from agent.core.model import map_layout
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.datapath.bpf.outcomes import ANSWERED, DROPPED, FORWARDED, PASSED, Outcome
from agent.datapath.bpf.syscall import XdpAction

SENT = {Outcome.SENT_DIRECT, Outcome.SENT_TO_BOUNCER, Outcome.SENT_TO_DIVIDER}
HANDED = {
    Outcome.BOUNCED,
    Outcome.HANDED_TO_BOUNCER,
    Outcome.HANDED_TO_DIVIDER,
    Outcome.RETURNED,
    Outcome.REROUTED,
    Outcome.MISDIRECTED,
}


class Oracle(FromEndpoint, FromUnderlay):
    """The oracle of one configuration."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._rules: dict[Outcome, Callable[[Step], None]] = {
            Outcome.PASSED: self._passed,
            Outcome.DELIVERED: self._delivered,
            Outcome.DELIVERED_SAME_HOST: self._same_host,
            Outcome.ARP_ANSWERED: self._arp_answered,
            Outcome.ND_ANSWERED: self._nd_answered,
            Outcome.GATEWAY_ECHO: self._echo,
            Outcome.ICMP_TOO_BIG_SENT: self._icmp_sent_here,
            Outcome.ICMP_UNREACHABLE_SENT: self._icmp_sent_here,
            Outcome.ICMP_TTL_EXCEEDED_SENT: self._icmp_answered,
            Outcome.GATEWAY_REFUSED: self._icmp_answered,
            Outcome.PROBE_REFLECTED: self._reflected,
            Outcome.ARP_ANSWERED_REMOTE: self._arp_answered_remote,
            Outcome.ND_ANSWERED_REMOTE: self._nd_answered_remote,
            Outcome.ICMP_TOO_BIG_SENT_REMOTE: self._icmp_answered_remote,
            Outcome.ICMP_UNREACHABLE_SENT_REMOTE: self._icmp_answered_remote,
            **dict.fromkeys(SENT, self._sent),
            **dict.fromkeys(HANDED, self._handed),
            Outcome.HANDED_TO_BOUNCER: self._by_role,
            Outcome.HANDED_TO_DIVIDER: self._by_role,
        }

    def check(self, step: Step) -> None:
        """Raise ViolationError, naming the rule that was broken."""
        outcome = step.outcome
        verdict = XdpAction.PASS if outcome in PASSED else XdpAction.REDIRECT
        need(step.verdict == (XdpAction.DROP if outcome in DROPPED else verdict), "the verdict is the outcome's")
        need(is_counted_right(self.model, step), "a frame counts as its packets")
        need(bool(step.leaves) == (step.verdict == XdpAction.REDIRECT), "only what goes on is redirected")
        self._check_traffic(step)
        self._check_paths(step)
        if outcome in DROPPED:
            need(is_true(self.model, step), "what is dropped is dropped for a true reason")
        else:
            self._rules[outcome](step)

    def _check_traffic(self, step: Step) -> None:
        want: dict[int, list[int]] = {}
        length, outcome, number = step.length, step.outcome, step.packets
        slot = step.arrival - IFINDEX_BASE
        if step.program == "transit_agent" and slot in self.model.interfaces and outcome not in ANSWERED:
            row = want.setdefault(slot, [0] * 8)
            row[0:2] = (number, length) if outcome in FORWARDED else (0, 0)
            row[2:4] = (number, length) if outcome in (Outcome.SENT_DIRECT, Outcome.DELIVERED_SAME_HOST) else (0, 0)
            row[6:8] = (number, length) if outcome in DROPPED else (0, 0)
        if outcome in (Outcome.DELIVERED, Outcome.DELIVERED_SAME_HOST):
            if outcome is Outcome.DELIVERED:
                length = len(data_packet(self.model, step)[0].inner)
            want.setdefault(step.leaves - IFINDEX_BASE, [0] * 8)[4:6] = (number, length)
        need(step.traffic == {slot: tuple(row) for slot, row in want.items()}, "endpoints' counters say what happened")

    def _check_paths(self, step: Step) -> None:
        """Only delivery teaches, of droplets that are known; only a packet that came back makes forget."""
        if step.before == step.after:
            return
        written = {key: value for key, value in step.after.items() if step.before.get(key) != value}
        gone = step.before.keys() - step.after.keys()
        tunnel, _ = data_packet(self.model, step)
        asked = asked_by(tunnel.inner)
        if asked:
            need(
                step.outcome is Outcome.ENDPOINT_NOT_LOCAL and not written, "a question teaches nothing, and ends here"
            )
            self._check_forgotten(step, tunnel, gone, *asked)
            return
        ip = ip_of(tunnel.inner)
        if written:
            endpoint = self.model.endpoints.get((tunnel.vni, ip.destination))
            need(endpoint and endpoint.ifindex, "a path is learnt for an endpoint of this host")
            refused = step.outcome is Outcome.MALFORMED_OUTER and step.marks.by_kernel
            too_long = endpoint and longest(step, tunnel.inner) > 14 + endpoint.mtu
            uncut = step.outcome is Outcome.GSO_PACKET and is_gso_of_udp(self.model, step)
            reached = step.outcome is Outcome.DELIVERED or refused or too_long or uncut
            need(reached and len(written) == 1 and not gone, "only what reached its endpoint's droplet teaches a path")
            (key, value), *_ = written.items()
            need(map_layout.OVERLAY_KEY.unpack(key) == (tunnel.vni, ip.source), "a path is to the sender, in its VPC")
            host = map_layout.DIRECT_PATH.unpack(value)[0]
            need(host in self.model.peers, "a path leads to a known droplet")
            need(host == origin_of(tunnel), "a path leads to where the sender is")
            flags = map_layout.DIRECT_PATH.unpack(value)[1]
            need(
                bool(flags & map_layout.PATH_LABELS) == label_of(tunnel)[1], "a path knows whether labels are asked for"
            )
            local = self.model.endpoints.get((tunnel.vni, ip.source))
            need(not local or (not local.ifindex and local.host == host), "documents know better than packets")
            network = self.model.network_of(tunnel.vni, ip.source)
            need(not network or network.gateway != ip.source, "no path leads to a gateway")
            need(not tunnel.is_vxlan and not comes_back(tunnel), "VXLAN and what came back teach nothing")
        if gone:
            self._check_forgotten(step, tunnel, gone, ip.source, ip.destination)

    def _check_forgotten(self, step: Step, tunnel: Tunnel, gone: set[bytes], source: bytes, to: bytes) -> None:
        back = comes_back(tunnel)
        if not back and not asked_by(tunnel.inner):
            back = is_own_misdirected(self.model, tunnel, ip_of(tunnel.inner))
        need(back, "only a packet that came back makes forget")
        need(gone == {map_layout.OVERLAY_KEY.pack(tunnel.vni, to)}, "the path to its destination is forgotten")
        need(self._is_local(tunnel.vni, source), "only a local endpoint's packet comes back here")
        (key,) = gone
        need(map_layout.DIRECT_PATH.unpack(step.before[key])[0] == tunnel.ip.source, "by the droplet that it led to")

    def _icmp_sent_here(self, step: Step) -> None:
        (self._icmp_answered if step.program == "transit_agent" else self._icmp_answered_own)(step)

    def _by_role(self, step: Step) -> None:
        """An endpoint's packet too goes by the roles of its droplet, when that bounces its network."""
        (self._sent if step.program == "transit_agent" else self._handed)(step)
