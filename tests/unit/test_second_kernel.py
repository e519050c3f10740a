"""What the second kernel is booted with: modules in an order in which they load, and an archive that it can unpack."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.kernels.initramfs import closure, write
from tests.kernels.machine import script


def module(folder: Path, name: str, *depends: str) -> tuple[str, Path]:
    path = folder / f"{name}.ko"
    path.write_bytes(b"\x7fELF\0license=GPL\0depends=" + ",".join(depends).encode() + b"\0name=x\0")
    return name, path


def test_modules_are_ordered_after_their_dependencies(tmp_path):
    """The names of dependencies may have an underscore where the file has a dash."""
    modules = dict([module(tmp_path, "geneve", "udp_tunnel"), module(tmp_path, "udp-tunnel"), module(tmp_path, "veth")])
    order = [path.stem for path in closure(("geneve", "udp-tunnel", "veth"), modules)]
    assert order == ["udp-tunnel", "geneve", "veth"]


def test_a_module_that_the_kernel_does_not_have_is_an_error(tmp_path):
    with pytest.raises(KeyError, match="bonding"):
        closure(("bonding",), {})


def test_the_archive_holds_every_file_whole(tmp_path):
    """Entries of cpio's "newc" form: a header of 110 bytes, the name, the content, the last two padded to 4 bytes."""
    busybox, init, archive = tmp_path / "busybox", tmp_path / "init.sh", tmp_path / "archive"
    busybox.write_bytes(b"program"), init.write_bytes(b"#!/bin/sh\n")
    write(archive, busybox, init, [module(tmp_path, "veth")[1]])
    found = dict(entries(archive.read_bytes()))
    assert found["bin/busybox"] == (stat.S_IFREG | 0o755, b"program")
    assert found["init"] == (stat.S_IFREG | 0o755, b"#!/bin/sh\n")
    assert found["modules/00-veth.ko"][1].startswith(b"\x7fELF")
    assert list(found)[-1] == "TRAILER!!!"


def entries(data: bytes):
    at = 0
    while at < len(data):
        assert data[at : at + 6] == b"070701"
        fields = [int(data[start : start + 8], 16) for start in range(at + 6, at + 110, 8)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        content = at + (110 + name_size + 3) // 4 * 4
        yield name, (mode, data[content : content + size])
        at = content + (size + 3) // 4 * 4


def test_the_script_keeps_spaces_and_quotes_of_a_command():
    text = script(["pytest", "-k", "a or 'b'"], Path("/a tree"), {"LANG": "C"})
    assert text == "cd '/a tree' && exec env -i LANG=C pytest -k 'a or '\"'\"'b'\"'\"''\n"
