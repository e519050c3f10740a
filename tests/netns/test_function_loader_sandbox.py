"""The process that compiles users' sources: what it cannot do, also if clang itself were taken over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ATTEMPT = """
import ctypes, os, resource, socket, struct, sys
from pathlib import Path
from agent.datapath.functions.sandbox import enter, forbid_calls, notify_bpf

given = sys.argv[1]
if sys.argv[2] == "kept":  # a service without CAP_SETUID stays root
    libc = ctypes.CDLL(None)
    header, found = struct.pack("=Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    assert libc.capget(header, found) == 0
    sets = list(struct.unpack("=6I", found.raw))
    sets[:3] = [one & ~(3 << 6) for one in sets[:3]]
    assert libc.capset(header, struct.pack("=6I", *sets)) == 0
inherited = os.open(given, os.O_RDONLY)
enter([Path("/usr/include")])
forbid_calls()
attempts = {
    "read": lambda: open(given).read(),
    "list": lambda: os.listdir("/etc"),
    "write": lambda: open(given, "a"),
    "create": lambda: open(given + ".new", "w"),
    "chmod": lambda: os.chmod(given, 0o777),
    "chmod an open file": lambda: os.fchmod(inherited, 0o777),
    "chown": lambda: os.chown(given, 1, 1),
    "truncate": lambda: os.truncate(given, 0),
    "unlink": lambda: os.unlink(given),
    "socket": lambda: socket.socket(socket.AF_UNIX),
    "fork": os.fork,
    "program": lambda: os.execv("/bin/true", ["true"]),
    "signal": lambda: os.kill(os.getppid(), 0),
    "become root": lambda: os.setgroups([0]),
    "pipe": os.pipe,
    "limits of others": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, 1),
    "many files": lambda: [open("/usr/include/stdio.h") for _ in range(1000)],
    "memory": lambda: bytearray(3 << 30),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except (OSError, MemoryError):
        continue
    print(name, "is possible")
open("/usr/include/linux/types.h").read(1)
print("user", os.geteuid())
"""


@pytest.mark.parametrize(("way", "user"), [("changed", 65534), ("kept", 0)])
def test_a_confined_process_can_only_read_headers_and_compute(tmp_path: Path, way: str, user: int) -> None:
    given = tmp_path / "given"
    given.write_text("kept")
    given.chmod(0o644)
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPT, str(given), way], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == (f"user {user}\n", "")
    assert given.read_text() == "kept"
    assert not Path(f"{given}.new").exists()
