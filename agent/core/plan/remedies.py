"""Remedies for refusals by the kernel: a text for every step that the agent asks of the kernel, and every errno.

Pure. A text names the step, the object, the kernel's answer, the likely cause, and what to do. An errno without an
entry gets a general text.
"""

from __future__ import annotations

import errno
from enum import StrEnum

from agent.core.model.errno_names import errno_name
from agent.core.plan.actions import (
    Action,
    AttachTransit,
    DeleteEntries,
    DeleteFunction,
    DeleteVeth,
    DetachTransit,
    EnsureFunction,
    EnsureVeth,
    PutEntries,
)


class Step(StrEnum):
    """One kind of request to the kernel, in words that stand between `while` and the object's name."""

    ENTER_NAMESPACE = "opening network namespace"
    CREATE_PAIR = "creating the pair of interfaces"
    CHANGE_LINK = "changing"
    SET_OFFLOADS = "setting the offloads of"
    ADD_ADDRESS = "adding address"
    REMOVE_ADDRESS = "removing address"
    ADD_ROUTE = "adding the default route"
    REMOVE_ROUTE = "removing the default route"
    DELETE_PAIR = "deleting"
    ATTACH_PROGRAM = "attaching"
    DETACH_PROGRAM = "detaching"
    WRITE_MAP = "writing to"
    DELETE_FROM_MAP = "deleting from"
    CREATE_MAP = "creating map"
    OPEN_PIN = "opening the pin"
    PIN = "pinning"
    LOAD_PROGRAM = "loading program"
    COMPILE_FUNCTION = "compiling"
    CHECK_FUNCTION = "checking"
    LOAD_FUNCTION = "loading"
    INSTALL_FUNCTION = "installing"
    REMOVE_FUNCTION = "removing"
    READ = "reading"


AGAIN = "the agent tries again by itself"
LOOK = f"see the kernel's log (dmesg) and the agent's log around this time; {AGAIN}"

_ENLARGE = (
    "the map is full: raise its size in the settings ([sizes]), remove the pinned maps (droplet-agent --uninstall) and "
    "start the agent"
)
_NO_INTERFACE = f"the interface is gone: bring it back; {AGAIN}"
_TAKEN = f"another object has that name or number: remove or rename it; {AGAIN}"
_NO_IPV6 = (
    "IPv6 is disabled for the interface in its namespace: enable it there (sysctl -w "
    "net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0), or publish the endpoint without an IPv6 "
    f"address; {AGAIN}"
)
_NO_IPV6_KERNEL = (
    "the kernel runs without IPv6 (ipv6.disable=1, or not built in): start it with IPv6, or publish the endpoint "
    "without an IPv6 address"
)
_SHORT_MTU = (
    "the kernel takes no IPv6 address on an interface with an MTU below 1280: raise the MTU of the droplet's "
    f"interface, or publish the endpoint without an IPv6 address; {AGAIN}"
)
_UNREACHABLE = (
    "the gateway is unreachable in the endpoint's namespace: see its interface and routing rules (ip addr, ip rule, "
    f"with nsenter --net=...); {AGAIN}"
)
_CANNOT_RUN = (
    "the interface cannot run it: give the droplet another interface, or see attach_mode, endpoint_hook and "
    "uplink_hook in the settings"
)

_PRIVILEGES = "the agent may not do this: run it as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN"

GENERAL: dict[int, str] = {
    errno.EPERM: _PRIVILEGES,
    errno.EACCES: f"access is denied: {_PRIVILEGES}, and see whether a security module (AppArmor, SELinux) forbids it",
    errno.ENOENT: f"it does not exist: create it; {AGAIN}",
    errno.ESRCH: f"it does not exist any more; {AGAIN}",
    errno.EEXIST: _TAKEN,
    errno.EBUSY: f"another process is using it: free it; {AGAIN}",
    errno.ENODEV: _NO_INTERFACE,
    errno.ENXIO: _NO_INTERFACE,
    errno.EINVAL: f"the kernel does not accept these values for this object: compare them with the document; {LOOK}",
    errno.ERANGE: f"a value is outside what the kernel accepts here: compare it with the document; {AGAIN}",
    errno.EOPNOTSUPP: "the kernel or the driver of the interface cannot do this: see the requirements in the manual",
    errno.EAFNOSUPPORT: "the kernel has no such address family: load or build it in, or do without it",
    errno.EPROTONOSUPPORT: "the kernel has no such protocol: load or build it in, or do without it",
    errno.ENOSYS: "the kernel is too old for this call, or was built without it: see the requirements in the manual",
    errno.ENOMEM: f"the kernel has no memory left for it: free memory on the host; {AGAIN}",
    errno.ENOBUFS: f"the kernel has no memory left for the request: free memory on the host; {AGAIN}",
    errno.ENOSPC: f"a table of the kernel is full: remove unused entries from it; {AGAIN}",
    errno.E2BIG: f"it is larger than the kernel accepts: make it smaller, or raise the limit; {LOOK}",
    errno.EMSGSIZE: f"it is longer than the kernel accepts, the interface's MTU for one: compare the MTUs; {LOOK}",
    errno.EMFILE: f"the agent has too many open files: raise its limit (LimitNOFILE, ulimit -n); {AGAIN}",
    errno.ENFILE: f"the host has too many open files: raise fs.file-max; {AGAIN}",
    errno.EAGAIN: f"the kernel's tables changed during use; {AGAIN}; if this persists, find out what changes them",
    errno.EINTR: f"the call was interrupted; {AGAIN}",
    errno.ETIMEDOUT: f"the kernel did not answer in time: check the load of the host; {AGAIN}",
    errno.ENETUNREACH: f"no route leads there: see the host's routes (ip route); {AGAIN}",
    errno.EHOSTUNREACH: f"no route leads there: see the host's routes (ip route); {AGAIN}",
    errno.ENETDOWN: f"the interface is down: set it up (ip link set dev ... up); {AGAIN}",
    errno.EADDRNOTAVAIL: f"the address is on no interface: add it; {AGAIN}",
    errno.EADDRINUSE: f"the address is in use elsewhere: free it; {AGAIN}",
    errno.ENOTDIR: "a part of the path is not a directory: correct the path in the document or the settings",
    errno.ELOOP: "the path has too many symbolic links: correct the path in the document or the settings",
    errno.ENAMETOOLONG: "the name is too long: correct it in the document or the settings",
    errno.EROFS: "the file system is read-only: mount it for writing",
    errno.ESTALE: f"it is no longer the object that was meant: publish the document again; {AGAIN}",
    errno.EIO: f"the kernel does not hold what was just written: another program may have changed it; {LOOK}",
    errno.EFAULT: f"the agent's request was malformed, which is a fault of the agent: please report it; {LOOK}",
    errno.EBADF: f"the agent used a closed file, which is a fault of the agent: please report it; {LOOK}",
}
"""By errno, for every step without an entry of its own."""

SPECIFIC: dict[tuple[Step, int], str] = {
    (Step.ENTER_NAMESPACE, errno.ENOENT): (
        "there is no such namespace: create it (ip netns add), start the container, or correct the document's "
        f"`namespace`; {AGAIN}"
    ),
    (
        Step.ENTER_NAMESPACE,
        errno.ESRCH,
    ): f"its process has ended: publish the document with the new process id; {AGAIN}",
    (Step.ENTER_NAMESPACE, errno.EINVAL): (
        f"this is no network namespace: see whether it is still mounted (findmnt), or correct the document; {AGAIN}"
    ),
    (Step.ENTER_NAMESPACE, errno.EACCES): (
        "the agent may not open it: it needs CAP_SYS_ADMIN, CAP_SYS_PTRACE for a process of another user, and no "
        "security module (AppArmor, SELinux) that forbids it"
    ),
    (Step.ENTER_NAMESPACE, errno.EPERM): (
        "the agent may not enter it: it needs CAP_SYS_ADMIN in the user namespace that owns it, as root of the host has"
    ),
    (Step.CREATE_PAIR, errno.EOPNOTSUPP): "the kernel has no veth interfaces: load the module veth, or build it in",
    (Step.CREATE_PAIR, errno.EBUSY): (
        f"the interface's number is taken: another process made an interface with it; remove that one; {AGAIN}"
    ),
    (Step.CREATE_PAIR, errno.EEXIST): (
        f"an interface with that name or number already exists: remove or rename it; {AGAIN}"
    ),
    (Step.CREATE_PAIR, errno.EINVAL): (
        "the kernel does not accept the name, MTU or Ethernet address: correct `interface` or `mac` in the document"
    ),
    (
        Step.CREATE_PAIR,
        errno.EADDRNOTAVAIL,
    ): "the kernel does not accept the Ethernet address: correct `mac` in the document",
    (Step.CREATE_PAIR, errno.ERANGE): (
        f"the kernel does not accept the MTU: correct the MTU of the droplet's interface, which sets it; {AGAIN}"
    ),
    (Step.CHANGE_LINK, errno.EBUSY): (
        f"the interface is in use, for example by a bridge or bond in its namespace: remove it from there; {AGAIN}"
    ),
    (Step.CHANGE_LINK, errno.EINVAL): (
        "the kernel does not accept the MTU, name or Ethernet address: compare them with the document, and the MTU "
        f"with that of the droplet's interface; {AGAIN}"
    ),
    (
        Step.CHANGE_LINK,
        errno.EADDRNOTAVAIL,
    ): "the kernel does not accept the Ethernet address: correct `mac` in the document",
    (Step.CHANGE_LINK, errno.EEXIST): (
        f"the namespace has another interface of that name: rename it, or correct `interface` in the document; {AGAIN}"
    ),
    (Step.SET_OFFLOADS, errno.EOPNOTSUPP): (
        "the driver cannot set what the data plane needs (ethtool -k shows it): update the kernel"
    ),
    (Step.ADD_ADDRESS, errno.EACCES): _NO_IPV6,
    (Step.ADD_ADDRESS, errno.EAFNOSUPPORT): _NO_IPV6_KERNEL,
    (Step.ADD_ADDRESS, errno.EOPNOTSUPP): _NO_IPV6_KERNEL,
    (Step.ADD_ADDRESS, errno.EINVAL): _SHORT_MTU,
    (Step.ADD_ADDRESS, errno.EADDRNOTAVAIL): "the kernel does not accept the address: correct the document",
    (Step.ADD_ROUTE, errno.EACCES): _NO_IPV6,
    (Step.ADD_ROUTE, errno.EAFNOSUPPORT): _NO_IPV6_KERNEL,
    (Step.ADD_ROUTE, errno.EOPNOTSUPP): _NO_IPV6_KERNEL,
    (Step.ADD_ROUTE, errno.EINVAL): (
        "the kernel does not accept the gateway: it is an address of the namespace itself, or IPv6 is disabled there; "
        f"correct the namespace or the network's `gateways`; {AGAIN}"
    ),
    (Step.ADD_ROUTE, errno.ENETUNREACH): _UNREACHABLE,
    (Step.ADD_ROUTE, errno.EHOSTUNREACH): _UNREACHABLE,
    (Step.ADD_ROUTE, errno.ENETDOWN): (
        f"the endpoint's interface went down: find out what sets it down in its namespace; {AGAIN}"
    ),
    (Step.ADD_ROUTE, errno.EEXIST): (
        f"the namespace has default routes with every metric that the agent uses: remove one; {AGAIN}"
    ),
    (Step.ATTACH_PROGRAM, errno.EOPNOTSUPP): _CANNOT_RUN,
    (Step.ATTACH_PROGRAM, errno.EINVAL): _CANNOT_RUN,
    (Step.ATTACH_PROGRAM, errno.ERANGE): f"{_CANNOT_RUN}, or lower its MTU",
    (Step.ATTACH_PROGRAM, errno.EMSGSIZE): f"{_CANNOT_RUN}, or lower its MTU",
    (Step.ATTACH_PROGRAM, errno.EEXIST): (
        "another program was attached meanwhile: see whose it is (`bpftool net`; `droplet-agent --check` names another "
        f"instance of the agent), and detach it only if nothing needs it; {AGAIN}"
    ),
    (Step.ATTACH_PROGRAM, errno.EBUSY): (
        "another program is attached, in another mode or by a link: see whose it is (`bpftool net`), and detach it "
        f"only if nothing needs it; {AGAIN}"
    ),
    (Step.DETACH_PROGRAM, errno.EEXIST): "another owner's program is attached: it is left alone",
    (Step.DETACH_PROGRAM, errno.EBUSY): "another owner's program is attached: it is left alone",
    (Step.DELETE_PAIR, errno.EPERM): (
        "the interface does not carry this agent's mark, or the agent lacks CAP_NET_ADMIN: delete it by hand if it "
        "is not needed"
    ),
    (Step.WRITE_MAP, errno.E2BIG): _ENLARGE,
    (Step.WRITE_MAP, errno.ENOSPC): _ENLARGE,
    (Step.WRITE_MAP, errno.EINVAL): (
        "the entry does not fit the map's layout: the map is of another version of the agent; remove the pinned maps "
        "(droplet-agent --uninstall) and start the agent"
    ),
    (
        Step.CREATE_MAP,
        errno.E2BIG,
    ): "the map's size is more than the kernel accepts: lower it in the settings ([sizes])",
    (Step.CREATE_MAP, errno.ENOMEM): "the host has no memory for the map: lower its size in the settings ([sizes])",
    (
        Step.CREATE_MAP,
        errno.EPERM,
    ): f"{_PRIVILEGES}, and raise LimitMEMLOCK before Linux 5.11",
    (Step.LOAD_PROGRAM, errno.EACCES): "the kernel's verifier refuses the program: report it with the verifier's log",
    (Step.LOAD_PROGRAM, errno.E2BIG): "the program is too complex for this kernel's verifier: update the kernel",
    (Step.LOAD_PROGRAM, errno.EINVAL): "the kernel lacks something that the program uses: update the kernel",
    (Step.COMPILE_FUNCTION, errno.EINVAL): "the source does not compile: correct it, and publish the document again",
    (Step.COMPILE_FUNCTION, errno.ENOENT): (
        f"the folder of functions has no such file: put it there (functions.folder), or correct the document; {AGAIN}"
    ),
    (Step.COMPILE_FUNCTION, errno.ETIMEDOUT): (
        f"the compiler took too long: make the source smaller, or check the load of the host; {AGAIN}"
    ),
    (Step.CHECK_FUNCTION, errno.EINVAL): (
        "the program does what functions may not do: see the contract (bpf/stage.h), correct it, and publish the "
        "document again"
    ),
    (Step.LOAD_FUNCTION, errno.EACCES): (
        "the kernel's verifier refuses the program: correct what it names, and publish the document again"
    ),
    (Step.LOAD_FUNCTION, errno.EINVAL): (
        "the kernel's verifier refuses the program: correct what it names, and publish the document again"
    ),
    (Step.LOAD_FUNCTION, errno.E2BIG): (
        "the program is too complex for this kernel's verifier: make it smaller, or bound its loops more tightly"
    ),
    (Step.INSTALL_FUNCTION, errno.EINVAL): (
        "the jump table does not take the program: it is of another hook or another agent's; remove the pinned maps "
        "(droplet-agent --uninstall) and start the agent"
    ),
    (Step.INSTALL_FUNCTION, errno.EINPROGRESS): "wait: the agent installs it as soon as that is done",
    (Step.INSTALL_FUNCTION, errno.EOPNOTSUPP): "functions are off on this host: see functions.accept in the settings",
    (Step.OPEN_PIN, errno.EACCES): f"{_PRIVILEGES}; the bpf file system may be another user's",
    (Step.PIN, errno.EPERM): "this is not a bpf file system: mount one there (mount -t bpf bpf ...)",
    (Step.PIN, errno.EEXIST): "another process pinned something there: remove it, and start the agent again",
}
"""By step and errno, where the step tells more than the errno alone."""


def remedy_for(step: Step, number: int) -> str:
    """Return the likely cause and what to do, for any step and any errno."""
    return SPECIFIC.get((step, number)) or GENERAL.get(number) or f"the cause is unknown to the agent: {LOOK}"


def explain(step: Step, number: int, detail: str, subject: str) -> str:
    """Return the text of a refusal; `detail` is the kernel's answer, `subject` the object's name."""
    said = detail if errno_name(number) in detail else f"{detail} ({errno_name(number)})"
    return f"{said} while {step.value} {subject}: {remedy_for(step, number)}"


def step_of(action: Action) -> Step:
    """Return an action's step, for failures without a more precise one."""
    match action:
        case PutEntries():
            return Step.WRITE_MAP
        case DeleteEntries():
            return Step.DELETE_FROM_MAP
        case EnsureVeth():
            return Step.CHANGE_LINK
        case DeleteVeth():
            return Step.DELETE_PAIR
        case AttachTransit():
            return Step.ATTACH_PROGRAM
        case DetachTransit():
            return Step.DETACH_PROGRAM
        case EnsureFunction():
            return Step.INSTALL_FUNCTION
        case DeleteFunction():
            return Step.REMOVE_FUNCTION
