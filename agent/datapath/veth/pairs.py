"""Creates, repairs and removes the veth pairs that connect endpoints, and touches no other interfaces.

Ours is a veth whose alias is `droplet/<instance>/<endpoint>`. The alias is set last, so that a pair without it but with
a name of our form is one whose making was cut short. Everything is level-triggered: `ensure_veth` reads, changes what
differs, and reads back.
"""

from __future__ import annotations

import errno
import re

from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP

from agent.core.model.desired_entries import Veth
from agent.core.model.endpoint_slots import alias_of, host_ifname, marked_by
from agent.core.model.hooks import Hook
from agent.core.model.process_bindings import Bindings, by_revision
from agent.core.plan.remedies import Step
from agent.datapath.attach.transit_agent import TransitAgent
from agent.datapath.net.namespaces import OpenedNamespace, opened_with_process
from agent.datapath.net.netlink import Message, Netlink, attribute
from agent.datapath.veth.endpoint_side import EndpointSide
from agent.datapath.veth.name_watch import NameWatch
from agent.errors import OperatorError, kernel_step

NAME_FORM = re.compile(r"dp[0-9a-f]{12}")
IN6_ADDR_GEN_MODE_NONE = 1


def is_veth(link: Message) -> bool:
    """Whether a link is one side of a veth pair."""
    info = attribute(link, "IFLA_LINKINFO")
    return info is not None and attribute(info, "IFLA_INFO_KIND") == "veth"


def marked_endpoint(link: Message, instance: str) -> str | None:
    """Return the endpoint whose mark a link carries, None when it carries none of this instance's."""
    found = marked_by(attribute(link, "IFLA_IFALIAS"))
    return found[1] if found is not None and found[0] == instance and is_veth(link) else None


def is_unfinished(link: Message) -> bool:
    """Whether a link is a pair whose making was cut short: our form of name, and no alias yet.

    Whose it is, is in the name alone, and only for one who knows the endpoint (`host_ifname`).
    """
    name = attribute(link, "IFLA_IFNAME")
    return is_veth(link) and not attribute(link, "IFLA_IFALIAS") and bool(NAME_FORM.fullmatch(name))


class Links:
    """Creates, repairs and removes the pairs of one instance, in the namespace of its netlink socket."""

    def __init__(
        self, netlink: Netlink, instance: str, transit_agent: TransitAgent, bindings: Bindings | None = None
    ) -> None:
        self._netlink = netlink
        self._instance = instance
        self._transit_agent = transit_agent
        self._bindings = bindings if bindings is not None else Bindings()
        self.name_watch = NameWatch()
        """Interfaces of other owners that have the names of our endpoints' interfaces."""

    @property
    def use_xdp(self) -> bool:
        """Whether the programs of endpoints run at XDP."""
        return self._transit_agent.hook is Hook.XDP

    async def ensure_veth(self, wanted: Veth) -> None:
        """Create the pair, or repair what differs; OSError that names the object if the kernel refuses.

        ENOENT: no such namespace. EEXIST: the ifindex, the name or the peer's name is another's. ESTALE: the process
        that stands for the namespace is not the one that the document meant.
        """
        with opened_with_process(wanted.namespace) as place:
            namespace = place.descriptor
            async with EndpointSide(namespace) as inside:
                await self._bind(wanted, place, inside)
                host = await self._own_side(wanted)
                peer = None
                if host is not None:
                    peer = await find_peer(self._netlink, host, namespace, inside)
                if host is not None and peer is None:
                    await self._delete(int(host["index"]), wanted.ifname)
                await self._refuse_taken_name(namespace, inside, peer, wanted)
                if host is None or peer is None:
                    host, peer = await self._create(wanted, namespace, inside)
                if wanted.sending.hook is Hook.XDP:  # before XDP sees frames without checksums
                    inside.set_offloads(peer, wanted)
                await self._configure_host_side(host, wanted)
                await inside.configure(peer, wanted)
                await self._widen(inside, int(peer["index"]), wanted)
                await self._finish(host, wanted)

    async def _bind(self, wanted: Veth, place: OpenedNamespace, inside: EndpointSide) -> None:
        """Remember the process that names the namespace; OperatorError (ESTALE) if it is not the one that was meant.

        Where an earlier agent left none to remember, the pair itself says so: it is still there, in that namespace.
        """
        if place.process is None:
            return
        meant = place.link or by_revision(wanted.revision)
        host = await self._netlink.link(index=wanted.ifindex)
        trusted = (
            self._bindings.is_unknown(wanted.endpoint, meant)
            and host is not None
            and self._is_ours(host, wanted)
            and await find_peer(self._netlink, host, place.descriptor, inside) is not None
        )
        fault = "" if trusted else self._bindings.fault(wanted.endpoint, meant, place.process)
        if fault:
            what = "make the link again" if place.link else "publish the document again, with the process id of now"
            message = (
                f"{fault}: nothing was attached. When the container runs, {what}; a named namespace (/run/netns) "
                "does not have this problem"
            )
            raise OperatorError(errno.ESTALE, message, wanted.namespace)
        self._bindings.bind(wanted.endpoint, meant, place.process)

    async def _delete(self, index: int, name: str) -> None:
        with kernel_step(Step.DELETE_PAIR, f"interface {name}"):
            await self._netlink.request("link", "del", index=index)

    async def delete_veth(self, endpoint: str, ifindex: int) -> None:
        """Remove an endpoint's pair; absence is not an error, an interface without our mark is (EPERM).

        An unfinished pair has no mark yet: it goes by the endpoint's name for it.
        """
        link = await self._netlink.link(index=ifindex)
        if link is None:
            return
        name = attribute(link, "IFLA_IFNAME")
        unfinished = is_unfinished(link) and name == host_ifname(self._instance, endpoint)
        if marked_endpoint(link, self._instance) != endpoint and not unfinished:
            message = f"interface {name} does not carry the mark of endpoint {endpoint}: it is left alone"
            raise OperatorError(errno.EPERM, message)
        try:
            await self._delete(ifindex, name)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    async def change_mode(self) -> None:
        """Move the transit agent, on all interfaces, to the mode in which it should run.

        OSError as `xdp.attach`.
        """
        links = await self._netlink.links()
        await self._transit_agent.change_mode(
            link for link in links if marked_endpoint(link, self._instance) is not None
        )

    def _is_ours(self, link: Message, wanted: Veth) -> bool:
        name = attribute(link, "IFLA_IFNAME")
        marked = marked_endpoint(link, self._instance) == wanted.endpoint
        return marked or (is_unfinished(link) and name == wanted.ifname)

    async def _own_side(self, wanted: Veth) -> Message | None:
        """Find the host side, and remove a pair of ours that has the name but not the ifindex."""
        by_index = await self._netlink.link(index=wanted.ifindex)
        if by_index is not None and not self._is_ours(by_index, wanted):
            raise OperatorError(errno.EEXIST, _held_index(by_index))
        by_name = await self._netlink.link(ifname=wanted.ifname)
        if by_name is not None and by_name["index"] != wanted.ifindex:
            if not self._is_ours(by_name, wanted):
                message = (
                    f"interface {wanted.ifname} exists and does not carry our mark: remove or rename it; the agent "
                    "tries again by itself"
                )
                raise OperatorError(errno.EEXIST, message)
            await self._delete(int(by_name["index"]), wanted.ifname)
        return by_index

    async def _refuse_taken_name(
        self, namespace: int, inside: EndpointSide, peer: Message | None, wanted: Veth
    ) -> None:
        """Refuse while another interface has the endpoint's name, and watch that interface."""
        holder = await inside.netlink.link(ifname=wanted.peer_name)
        if holder is None or (peer is not None and holder["index"] == peer["index"]):
            return
        self.name_watch.watch(namespace, int(holder["index"]), wanted.peer_name)
        if await inside.netlink.link(ifname=wanted.peer_name) is None:
            return  # it disappeared before it was watched
        message = (
            f"namespace {wanted.namespace} already has an interface {wanted.peer_name} that is not this endpoint's: "
            f"if the endpoint moves here, have its former host remove it; else remove or rename that interface; "
            f"the agent takes the name as soon as it is free"
        )
        raise OperatorError(errno.EEXIST, message)

    async def _create(self, wanted: Veth, namespace: int, inside: EndpointSide) -> tuple[Message, Message]:
        peer = {
            "ifname": wanted.peer_name,
            "net_ns_fd": namespace,
            "address": wanted.peer_mac.hex(":"),
            "mtu": wanted.mtu,
        }
        with kernel_step(Step.CREATE_PAIR, f"{wanted.ifname} and {_inside(wanted)}"):
            await self._netlink.request(
                "link", "add", kind="veth", ifname=wanted.ifname, index=wanted.ifindex, mtu=wanted.mtu, peer=peer
            )
        host = await self._netlink.link(index=wanted.ifindex)
        made = await inside.netlink.link(ifname=wanted.peer_name)
        if host is None or made is None or not is_veth(host):
            raise OSError(errno.EIO, "the kernel does not show the pair that it has just made")
        return host, made

    async def _configure_host_side(self, host: Message, wanted: Veth) -> None:
        changes: dict[str, object] = {}
        if attribute(host, "IFLA_IFNAME") != wanted.ifname:
            changes["ifname"] = wanted.ifname
        if attribute(host, "IFLA_MTU") < wanted.mtu:
            changes["mtu"] = wanted.mtu
        with kernel_step(Step.CHANGE_LINK, f"interface {wanted.ifname}"):
            if changes:
                await self._netlink.request("link", "set", index=wanted.ifindex, **changes)
        self._transit_agent.refuse()
        with kernel_step(Step.ATTACH_PROGRAM, f"the transit agent to interface {wanted.ifname}"):
            await self._transit_agent.attach(host)
        if not host["flags"] & IFF_UP:
            with kernel_step(Step.CHANGE_LINK, f"interface {wanted.ifname}"):
                await self._set_up(wanted.ifindex)

    async def _widen(self, inside: EndpointSide, peer: int, wanted: Veth) -> None:
        """Let the host side receive what the tenant can send, whatever MTU the tenant sets (see `Veth`).

        The kernel limits the tenant's side to what native XDP on ours can take (drivers/net/veth.c: veth_xdp_set).
        """
        made, host = await inside.netlink.link(index=peer), await self._netlink.link(index=wanted.ifindex)
        if made is None or host is None:
            raise OSError(errno.ENODEV, "the pair went away while it was being set up", wanted.ifname)
        longest = attribute(made, "IFLA_MAX_MTU") or wanted.mtu
        if attribute(host, "IFLA_MTU") < longest:
            with kernel_step(Step.CHANGE_LINK, f"interface {wanted.ifname}"):
                await self._netlink.request("link", "set", index=wanted.ifindex, mtu=longest)

    async def _set_up(self, ifindex: int) -> None:
        """Set the host side up, without link-local IPv6, so that the host's stack sends nothing to the tenant."""
        mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", IN6_ADDR_GEN_MODE_NONE)]}
        silence = {"attrs": [("AF_INET6", mode)]}
        try:
            await self._netlink.request("link", "set", index=ifindex, state="up", IFLA_AF_SPEC=silence)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                raise
            await self._netlink.request("link", "set", index=ifindex, state="up")

    async def _finish(self, host: Message, wanted: Veth) -> None:
        """Set the mark, last of all, and verify the result."""
        mark = alias_of(self._instance, wanted.endpoint)
        if attribute(host, "IFLA_IFALIAS") != mark:
            with kernel_step(Step.CHANGE_LINK, f"interface {wanted.ifname}"):
                await self._netlink.request("link", "set", index=wanted.ifindex, ifalias=mark)
        link = await self._netlink.link(index=wanted.ifindex)
        if link is None or marked_endpoint(link, self._instance) != wanted.endpoint or not link["flags"] & IFF_UP:
            raise OSError(errno.EIO, "the kernel does not show the pair as it was set up")


def _held_index(holder: Message) -> str:
    """Explain that another interface has the index of an endpoint's interface."""
    words = f"interface index {holder['index']} is held by {attribute(holder, 'IFLA_IFNAME')}"
    owner = marked_by(attribute(holder, "IFLA_IFALIAS"))
    if owner is None:
        return f"{words}, which is not this endpoint's: remove that interface; the agent tries again by itself"
    instance, endpoint = owner
    return (
        f"{words}, the interface of endpoint {endpoint} of the droplet instance {instance}: leave it alone, and run "
        "each instance in a network namespace of its own; if that instance is gone for good, remove what it left by "
        "`droplet-agent --uninstall` with its settings"
    )


def _inside(wanted: Veth) -> str:
    return f"{wanted.peer_name} in namespace {wanted.namespace}"


async def find_peer(netlink: Netlink, host: Message, namespace: int, inside: EndpointSide) -> Message | None:
    """Return the other side of a pair if it is in this namespace, whatever its name there."""
    expected = await netlink.namespace_id(namespace)
    if expected is None or attribute(host, "IFLA_LINK_NETNSID") != expected or not attribute(host, "IFLA_LINK"):
        return None
    peer = await inside.netlink.link(index=attribute(host, "IFLA_LINK"))
    if peer is None or not is_veth(peer) or attribute(peer, "IFLA_LINK") != host["index"]:
        return None
    return peer
