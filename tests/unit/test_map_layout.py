"""The layout that Python packs is the one that C reads: sizes, offsets and constants of bpf/structs.h."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import pytest

from agent.core.model import map_layout
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.core.model.hooks import Hook

HEADER = Path(__file__).resolve().parents[2] / "bpf" / "structs.h"
CONSTANTS = HEADER.with_name("constants.h")
FIELDS = {
    "overlay_key": (map_layout.OVERLAY_KEY, ["vni", "address"]),
    "endpoint": (map_layout.ENDPOINT, ["host", "ifindex", "flags", "mtu", "mac"]),
    "interface": (map_layout.INTERFACE, ["vni", "droplet", "ipv6", "ipv4", "mac", "flags", "mtu", "tos", "label"]),
    "network_key": (map_layout.NETWORK_KEY, ["prefixlen", "vni", "address"]),
    "network": (map_layout.NETWORK, ["gateway", "flags", "count", "broadcast", "bouncers"]),
    "vpc": (map_layout.VPC, ["flags", "count", "dividers"]),
    "droplet": (map_layout.DROPLET, ["flags", "host"]),
    "next_hop_key": (map_layout.NEXT_HOP_KEY, ["address", "interface"]),
    "next_hop": (map_layout.NEXT_HOP, ["mac", "mtu", "flags", "droplet"]),
    "local_droplet": (
        map_layout.LOCAL_DROPLET,
        ["address", "interface", "rx_ifindex", "tx_ifindex", "mac", "vlan", "flags"],
    ),
    "direct_path": (map_layout.DIRECT_PATH, ["host", "flags", "confirmed_ns", "confirmed_tick"]),
    "cached_path": (map_layout.CACHED_PATH, ["key.vni", "key.address", "flags", "host", "generation", "expires_tick"]),
    "path_cache": (map_layout.PATH_CACHE, ["path"]),
    "cached_hop": (
        map_layout.CACHED_HOP,
        [
            *("key.address", "key.interface", "hop.mac", "hop.mtu", "hop.flags", "hop.droplet"),
            *("generation", "expires_tick"),
        ],
    ),
    "hop_cache": (map_layout.HOP_CACHE, ["hop"]),
    "cached_slot": (map_layout.CACHED_SLOT, ["generation", "expires_tick", "slot"]),
    "generation": (map_layout.GENERATION, ["number"]),
    "slot_cache": (map_layout.SLOT_CACHE, ["slot"]),
    "detour_key": (map_layout.DETOUR_KEY, ["from", "to.vni", "to.address"]),
    "detour": (map_layout.DETOUR, ["misdirected_by", "attempt", "tick"]),
    "traffic": (map_layout.TRAFFIC, ["packets", "bytes"]),
    "endpoint_traffic": (
        map_layout.ENDPOINT_TRAFFIC,
        [f"{part}.{unit}" for part in ("sent", "direct", "delivered", "dropped") for unit in ("packets", "bytes")],
    ),
    "packet": (
        map_layout.PACKET,
        ["from.vni", "from.address", "to.vni", "to.address", "length", "kind", "tos", "ttl"],
    ),
    "tunnel": (
        map_layout.TUNNEL,
        [
            *("peer.address", "peer.interface", "vni", "origin", "headers", "length", "probe", "mtu", "source_port"),
            *("tos", "ttl", "bounces", "flags", "rts", "attempt", "longest", "label"),
        ],
    ),
    "endpoint_stages": (map_layout.ENDPOINT_STAGES, ["from_endpoint", "to_endpoint"]),
    "vpc_stages": (map_layout.VPC_STAGES, ["forwarded", "from_underlay", "dropped"]),
    "function_process": (map_layout.FUNCTION_PROCESS, ["ifindex", "lane", "longest", "flags", "queues", "reasons"]),
    "host_stages": (map_layout.HOST_STAGES, ["vnis", "passed", "dropped", "open"]),
    "function_traffic": (
        map_layout.FUNCTION_TRAFFIC,
        [
            *("received.packets", "received.bytes", "went_on", "dropped", "sent_back", "sent_to"),
            *("handed_over", "faults", "samples", "sampled_ns"),
        ],
    ),
    "outer": (map_layout.OUTER, ["to", "pseudo", "udp", "ip_payload", "vlan", "summed"]),
    "options": (map_layout.OPTIONS, ["rts", "probe", "returned", "label"]),
    "transport": (map_layout.TRANSPORT, ["offset", "protocol", "identity", "fragment", "later", "extended"]),
    "scratch": (map_layout.SCRATCH, ["bytes"]),
    "kernel_layout": (
        map_layout.KERNEL_LAYOUT,
        ["cookie", "device_ifindex", "device_net", "net_cookie", "program_aux", "aux_id"],
    ),
    "watched_key": (map_layout.WATCHED_KEY, ["kind", "id"]),
    "watched_mark": (map_layout.WATCHED_MARK, ["present"]),
    "failure_key": (map_layout.FAILURE_KEY, ["kind", "error", "ifindex"]),
    "failure_count": (map_layout.FAILURE_COUNT, ["frames"]),
}
FIELDS["frame_state"] = (
    map_layout.FRAME_STATE,
    [
        *(f"{part}.{field}" for part in ("packet", "tunnel", "transport") for field in FIELDS[part][1]),
        *("called", "length", "reason", "receiver", "local", "received_flags", "packets"),
        *(f"{part}.{field}" for part in ("outer", "options") for field in FIELDS[part][1]),
        *("chain", "outcome", "flow", "changed", "sends", "on_path", "processed", "sent", "handed"),
        *("rx_ifindex", "answers", "stage"),
    ],
)
"""Every struct that is a key or a value, with its fields in the order of the format; padding is not named."""
OF_PROGRAMS = {"fragment_key", "fragment", "token_bucket", "function_answer"}
"""Those that the agent never reads or writes."""
CONSTANTS_OF_BOTH = (
    "MAX_SET",
    "MAX_LOCAL_DROPLETS",
    "GENERATION_NEXT_HOPS",
    "GENERATION_ENDPOINTS",
    "GENERATION_PATHS",
    "CACHED_PATHS_BITS",
    "CACHED_HOPS_BITS",
    "CACHED_SLOTS_BITS",
    "NETWORK_LOCAL_BOUNCER",
    "NETWORK_PINNED",
    "NETWORK_LABELS",
    "PATH_PINNED",
    "PATH_LABELS",
    "VPC_LOCAL_DIVIDER",
    "ENDPOINT_VXLAN",
    "ENDPOINT_PINNED",
    "ENDPOINT_LABELS",
    "INTERFACE_PINNED",
    "INTERFACE_LABELS",
    "INTERFACE_STAGES_FROM",
    "INTERFACE_STAGES_TO",
    "STAGE_POINTS",
    "STAGE_SLOTS",
    "STAGE_REASONS",
    "PROCESS_QUEUES",
    "PROCESS_REASONS",
    "CHAIN_BITS",
    "DROPLET_ZERO_CHECKSUM",
    "NEXT_HOP_BY_OTHER",
    "NEXT_HOP_DOWN",
    "NEXT_HOP_ZERO_CHECKSUM",
    "WATCHED_PROGRAM",
    "WATCHED_INTERFACE",
    "FAILURE_REDIRECT",
    "FAILURE_TRANSMIT",
    "FAILURE_EXCEPTION",
)


@pytest.fixture(scope="module")
def c_layout(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Sizes and offsets as a C compiler of this machine sees them."""
    folder = tmp_path_factory.mktemp("layout")
    lines = [f'printf("{name} %zu\\n", sizeof(struct {name}));' for name in FIELDS]
    for name, (_, fields) in FIELDS.items():
        lines += [f'printf("{name}.{f} %zu\\n", offsetof(struct {name}, {f}));' for f in fields]
    source = folder / "layout.c"
    source.write_text(
        f'#include <linux/types.h>\n#include <stddef.h>\n#include <stdio.h>\n#include "{HEADER}"\n'
        f"int main(void) {{ {' '.join(lines)} return 0; }}\n"
    )
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", folder / "layout", source], check=True)
    output = subprocess.run([folder / "layout"], check=True, capture_output=True, text=True).stdout
    return {name: int(number) for name, number in (line.split() for line in output.splitlines())}


def offsets(form: struct.Struct) -> list[int]:
    """Return the offset of each value of a format without implicit padding."""
    at, found = 0, []
    for count, code in re.findall(r"(\d*)([a-zA-Z])", form.format):
        repeated = 1 if code in "sx" else int(count or 1)
        for _ in range(repeated):
            if code != "x":
                found.append(at)
            at += struct.calcsize(f"={count}{code}") if code in "sx" else struct.calcsize(f"={code}")
    return found


@pytest.mark.parametrize("name", FIELDS)
def test_a_struct_has_the_size_and_the_offsets_of_its_format(c_layout: dict[str, int], name: str) -> None:
    form, fields = FIELDS[name]
    assert form.format.startswith("=")
    assert form.size == c_layout[name]
    assert offsets(form) == [c_layout[f"{name}.{field}"] for field in fields]


def test_no_struct_of_the_header_is_left_out() -> None:
    defined = set(re.findall(r"^struct (\w+) \{", HEADER.read_text(encoding="utf-8"), re.MULTILINE))
    assert defined == set(FIELDS) | {"address"} | OF_PROGRAMS


def test_the_slots_of_called_programs_are_the_same_in_both() -> None:
    names = re.findall(r"^\tSLOT_(\w+),", HEADER.with_name("slots.h").read_text(encoding="utf-8"), re.MULTILINE)
    assert dict(enumerate(names)) == {slot.value: slot.name for slot in map_layout.ProgramSlot}
    for hook in Hook:
        assert set(map_layout.called_programs(hook, functions=True)) == set(map_layout.ProgramSlot)


@pytest.mark.parametrize("name", CONSTANTS_OF_BOTH)
def test_a_constant_has_one_value(name: str) -> None:
    found = re.search(rf"#define {name}\s+(\d+)", HEADER.read_text(encoding="utf-8"))
    assert found is not None
    assert int(found[1]) == getattr(map_layout, name)


def test_the_gateways_address_is_the_same_in_both() -> None:
    found = re.search(r"#define GATEWAY_MAC\s+\\?\s*\{([^}]*)\}", CONSTANTS.read_text(encoding="utf-8"))
    assert found is not None
    assert bytes(int(part, 16) for part in found[1].split(",")) == map_layout.GATEWAY_MAC


def test_the_interfaces_of_endpoints_are_numbered_from_the_same_number() -> None:
    found = re.search(r"#define IFINDEX_BASE\s+(\w+)U\n", CONSTANTS.read_text(encoding="utf-8"))
    assert found is not None
    assert int(found[1], 16) == IFINDEX_BASE


def test_the_maps_of_python_are_the_maps_of_c() -> None:
    text = HEADER.with_name("maps.h").read_text(encoding="utf-8")
    declared = re.findall(r'BPF_(?:F_)?TABLE\("\w+", [\w ]+, [\w ]+, (\w+),', text)
    # second maps, with the declarations of `programs` and `stage_programs`
    at_tc = [map_layout.PROGRAM_ARRAYS[Hook.TC], map_layout.STAGE_ARRAYS[Hook.TC]]
    assert sorted([*declared, *at_tc]) == sorted(map_layout.MapName)
