"""Namespaces and veths for frames: a measured host between an endpoint and a wire, whose far ends count what arrives.

Two hosts are made: one for XDP programs, whose far ends drop by XDP, and one with kernel VXLAN and a bridge, whose far
ends have no program, since XDP on a veth would slow down the stack in front of it; there the stack drops each frame
at its first step, as one for another host.
"""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.datapath.attach.xdp import AttachableProgram, AttachMode, ProgramOwnership, attach
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.links import attach_tcx
from agent.datapath.net.netlink import Netlink
from bench.frames import LOCAL_MAC, OVER_IPV4, PEER_MAC, REMOTE_MAC, VNI, VXLAN_PORT
from bench.map_contents import SLOT, Place
from controller_sim.lab.namespaces import NAMED, call_in, run_coroutine_in, run_in

WIRE, TAP, FAR = "wire", "tap", "far"
"""On the host: towards the underlay, and towards the endpoint. In the namespaces around it: the other ends."""


class WiresError(RuntimeError):
    """A command refused to build what is measured on."""


class Received:
    """Counts what an interface in a namespace has received, without entering the namespace each time.

    An open /proc/net/dev belongs to the namespace in which it was opened.
    """

    def __init__(self, namespace: str, ifname: str) -> None:
        self._start = f"{ifname}:".encode()
        self._fd = call_in(namespace, lambda: os.open("/proc/thread-self/net/dev", os.O_RDONLY | os.O_CLOEXEC))

    def packets(self) -> int:
        """Return packets received since the interface was made."""
        for line in os.pread(self._fd, 1 << 16, 0).splitlines():
            name, _, numbers = line.strip().partition(b" ")
            if name == self._start:
                return int(numbers.split()[1])
        raise WiresError(f"no interface {self._start.decode()} any more")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class Host:
    """One measured host's namespaces `<prefix>_host`, `<prefix>_endpoint` and `<prefix>_wire`."""

    def __init__(self, prefix: str) -> None:
        self.namespace = f"{prefix}_host"
        self.endpoint = f"{prefix}_endpoint"
        self.wire = f"{prefix}_wire"
        self.ifindex: dict[str, int] = {}
        self.mac = b""
        self.delivered: Received | None = None
        self.sent: Received | None = None

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _build(self) -> None:
        for namespace in (self.wire, self.endpoint, self.namespace):
            command("ip", "netns", "add", namespace)
            call_in(namespace, _no_ipv6)
        for name, far, index in ((WIRE, self.wire, ""), (TAP, self.endpoint, f"index {IFINDEX_BASE + SLOT}")):
            self.ip(f"link add name {name} {index} type veth peer name {FAR} netns {far}", f"link set {name} up")
            command("ip", "-n", far, "link", "set", FAR, "up")
        addresses = {name: call_in(self.namespace, lambda name=name: _link(name)) for name in (WIRE, TAP)}  # type: ignore[misc]
        self.ifindex = {name: index for name, (index, _) in addresses.items()}
        self.mac = addresses[WIRE][1]
        self.delivered, self.sent = Received(self.endpoint, FAR), Received(self.wire, FAR)

    @property
    def place(self) -> Place:
        """What the maps say of this host's interfaces."""
        return Place(self.ifindex[WIRE], self.mac, self.ifindex[TAP])

    def _remove(self) -> None:
        for counter in (self.delivered, self.sent):
            if counter is not None:
                counter.close()
        for namespace in (self.namespace, self.endpoint, self.wire):
            if (NAMED / namespace).exists():
                command("ip", "netns", "delete", namespace)

    def ip(self, *lines: str) -> None:
        """Run lines of ip(8) in the host's namespace."""
        command("ip", "-n", self.namespace, "-batch", "-", stdin="".join(f"{line}\n" for line in lines))

    def drop_at_far_ends(self, program: int) -> None:
        """Attach an XDP program to both far ends."""
        for namespace in (self.wire, self.endpoint):
            attach_xdp(namespace, FAR, program)

    def receive_at_far_ends(self) -> None:
        """Let both far ends take redirected frames in as an endpoint does: by NAPI, with GRO."""
        for namespace in (self.wire, self.endpoint):
            ethtool(namespace, "-K", FAR, "gro", "on")

    def add_kernel_vxlan(self) -> None:
        """Make VXLAN and bridge as an operator would for one tenant, with static neighbours."""
        own, peer = OVER_IPV4.own, OVER_IPV4.peer
        self.ip(
            f"address add {own}/24 dev {WIRE}",
            f"neighbour add {peer} lladdr {PEER_MAC.hex(':')} dev {WIRE} nud permanent",
            "link add name br0 type bridge stp_state 0 forward_delay 0",
            f"link add name vx0 type vxlan id {VNI} local {own} remote {peer} dstport {VXLAN_PORT} dev {WIRE}",
            "link set vx0 master br0 up",
            f"link set {TAP} master br0",
            "link set br0 up",
        )
        for mac, port in ((LOCAL_MAC, TAP), (REMOTE_MAC, "vx0")):
            command("bridge", "-n", self.namespace, "fdb", "add", mac.hex(":"), "dev", port, "master", "static")


def command(*argv: str, stdin: str | None = None) -> str:
    """Run a command and return its output; WiresError with what it said when it fails."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WiresError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def ethtool(namespace: str, *arguments: str) -> None:
    """Run ethtool in a namespace; WiresError when it refuses."""
    done = run_in(namespace, ["ethtool", *arguments])
    if done.returncode:
        raise WiresError(f"ethtool {' '.join(arguments)}: {done.stderr.strip()}")


def _no_ipv6() -> None:
    """Keep the kernel's own IPv6 packets out of the counters: for interfaces that are made later."""
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1\n", encoding="ascii")


def _link(name: str) -> tuple[int, bytes]:
    text = subprocess.run(["ip", "-o", "link", "show", name], capture_output=True, text=True, check=True).stdout
    words = text.split()
    return int(words[0].rstrip(":")), bytes.fromhex(words[words.index("link/ether") + 1].replace(":", ""))


def attach_xdp(namespace: str, ifname: str, program: int) -> None:
    """Attach an XDP program to an interface, in native mode; WiresError when there is no such interface."""
    run_coroutine_in(namespace, lambda: _attach(ifname, program))


def attach_tc(namespace: str, ifname: str, program: int) -> None:
    """Attach a tc program to an interface's tcx ingress hook; OSError before Linux 6.6."""
    call_in(namespace, lambda: attach_tcx(socket.if_nametoindex(ifname), program))


async def _attach(ifname: str, program: int) -> None:
    async with Netlink() as netlink:
        link = await netlink.link(ifname=ifname)
        if link is None:
            raise WiresError(f"no interface {ifname}")
        description = AttachableProgram(program, bpf.program_info(program).id, "far end")
        own = ProgramOwnership(lambda _: False, bpf.program_by_id)
        await attach(netlink, int(link["index"]), description, own, AttachMode.NATIVE)
