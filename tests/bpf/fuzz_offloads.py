"""What tc leaves to devices: to cut GSO packets into segments, and to complete checksums of TCP and UDP."""

from __future__ import annotations

from fuzz_frames import split_tag
from fuzz_machine import Step
from fuzz_model import Model
from fuzz_parse import TCP, UDP, Ip, has_many_extensions, pseudo, read_inner, read_tunnel, total_of

from agent.core.model import map_layout
from agent.core.model.hooks import Hook
from agent.datapath.bpf.outcomes import DROPPED, Outcome

CHECKS = {TCP: 16, UDP: 6}
"""Offset of the checksum in the transport header."""
UNCUT = {Outcome.PASSED, Outcome.PROBE_REFLECTED, Outcome.ARP_ANSWERED, Outcome.ARP_ANSWERED_REMOTE}
"""Outcomes of frames without an IP packet inside, or that are not looked into."""


def inner_of(model: Model, step: Step) -> bytes:
    """Return the frame of an endpoint, without a tag, or what a tunnel carried; empty if it was no tunnel's."""
    if step.program == "transit_agent":
        return split_tag(step.frame)[1]
    tunnel = read_tunnel(step.frame, model.features.geneve_port, model.features.vxlan_port)
    return tunnel.inner if tunnel else b""


def cut(size: int, inner: bytes) -> tuple[int, int] | None:
    """Return how many segments of `size` payload bytes a frame is cut into, and the length of the longest.

    None when it cannot be cut: segments are of TCP (RFC 9293 section 3.1) or UDP, and repeat all headers.
    """
    ip = read_inner(inner)[1] if len(inner) >= 14 else None
    headers = _headers(inner, ip) if ip else None
    if not ip or not headers or headers >= ip.end:
        return None
    number = -(-(ip.end - headers) // size)
    return number, headers + size if number > 1 else len(inner)


def _headers(inner: bytes, ip: Ip) -> int | None:
    """Return where the payload begins."""
    if ip.fragment or ip.protocol not in CHECKS or ip.transport + (20 if ip.protocol == TCP else 8) > ip.end:
        return None
    if ip.protocol == UDP:
        return ip.transport + 8
    words = inner[ip.transport + 12] >> 4
    return ip.transport + 4 * words if words >= 5 else None


def longest(step: Step, inner: bytes) -> int:
    """Return the length of a frame, or of the longest that it will be cut into."""
    found = cut(step.marks.segment, inner) if step.marks.segment else None
    return found[1] if found else len(inner)


def is_counted_right(model: Model, step: Step) -> bool:
    """Say whether a frame was counted as its packets: as marked, if it was dropped before it was parsed."""
    marked = step.marks.segments or 1
    if not step.marks.segment:
        return step.packets == 1
    found = cut(step.marks.segment, inner_of(model, step))
    if found is None or step.outcome in UNCUT:
        return step.packets == marked
    return step.packets == found[0] or (step.outcome in DROPPED and step.packets == marked)


def is_no_tunnels(model: Model, step: Step) -> bool:
    """Say whether no tunnel can carry a GSO packet: it cannot be cut, or a next hop asks for UDP checksums."""
    if not step.marks.segment:
        return False
    summed = any(
        not hop.flags & map_layout.NEXT_HOP_ZERO_CHECKSUM and peer[:12] != map_layout.V4_MAPPED
        for (peer, _), hop in model.hops.items()
    )
    return summed or cut(step.marks.segment, inner_of(model, step)) is None


def is_gso_of_udp(model: Model, step: Step) -> bool:
    """Say whether a tunnel brought a GSO packet of UDP, which no endpoint's stack could cut for its sockets."""
    inner = inner_of(model, step)
    ip = read_inner(inner)[1] if len(inner) >= 14 else None
    return bool(step.program == "transit_xdp" and step.marks.segment and ip and ip.protocol == UDP)


def is_refused_by_kernel(step: Step) -> bool:
    """Say whether the kernel may refuse to make space in the frame.

    At tc it does so for a GSO packet of no protocol, which only a test run has, or of a tunnel of the endpoint's own.
    """
    return step.hook is Hook.XDP or step.marks.by_kernel or bool(step.marks.segment and step.marks.in_tunnel)


def unfinished_at(frame: bytes) -> tuple[int, Ip] | None:
    """Return where the checksum of an inner frame is that a device is to complete, and its packet; None if there is
    none: the sum of the pseudo-header stands in its place."""
    ip = read_inner(frame)[1] if len(frame) >= 14 else None
    if not ip or ip.fragment or ip.protocol not in CHECKS or has_many_extensions(frame, ip):
        return None
    at = ip.transport + CHECKS[ip.protocol]
    if at + 2 > ip.end:  # an IPv6 packet may even end inside its extension headers
        return None
    wanted = total_of(pseudo(ip, ip.protocol, ip.end - ip.transport))
    return (at, ip) if int.from_bytes(frame[at : at + 2], "big") == wanted else None


def finished(frame: bytes) -> bytes:
    """Return an inner frame as a device leaves it: with its checksum complete, which covers padding too."""
    found = unfinished_at(frame)
    if not found:
        return frame
    at, ip = found
    check = total_of(frame[ip.transport :]) ^ 0xFFFF or 0xFFFF
    return frame[:at] + check.to_bytes(2, "big") + frame[at + 2 :]
