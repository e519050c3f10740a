"""The benchmark's chains of libxdp's dispatcher, which need a kernel that replaces functions of programs (freplace)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.datapath.bpf import syscall as bpf
from bench import dispatcher, libxdp
from bench import frames as f
from bench.function_pair import returning
from bench.lines import EGRESS, INGRESS
from bench.stage_peers import ENDS
from bench.wires import Host
from controller_sim.lab.namespaces import call_in
from tests.kernels.inside.talk import until

FRAMES = 1000


@pytest.fixture
def host() -> Iterator[Host]:
    """Two veths whose far ends drop what they count."""
    if shutil.which("clang") is None or libxdp.available() is None:
        pytest.skip("clang and libxdp1 are not installed: `make bench` installs them")
    with Host("dispatched") as made:
        program = bpf.load_program(returning(bpf.XdpAction.DROP), name="drop")
        try:
            made.drop_at_far_ends(program)
            yield made
        finally:
            os.close(program)


@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
@pytest.mark.parametrize("noops", [0, 1, 8])
def test_frames_pass_all_programs_of_a_chain_to_the_last_one(
    host: Host, tmp_path: Path, direction: str, noops: int
) -> None:
    comes, leaves = ENDS[direction]
    arrived = host.delivered if direction == INGRESS else host.sent
    assert arrived is not None
    paths = [dispatcher.compile_program("noop", tmp_path)] * noops
    paths.append(dispatcher.compile_program("redirect", tmp_path, LEAVES_BY=host.ifindex[leaves]))
    chain = dispatcher.Libxdp().attach(host, comes, paths)
    try:
        assert bpf.program_info(chain.program).name == "xdp_dispatcher"
        live, before = bpf.BPF_F_TEST_XDP_LIVE_FRAMES, arrived.packets()
        call_in(
            host.namespace,
            lambda: bpf.run_program(
                chain.program, f.in_geneve(host.mac), repeat=FRAMES, ifindex=host.ifindex[comes], flags=live
            ),
        )
        until(lambda: arrived.packets() - before == FRAMES, "the last of the frames")
    finally:
        chain.detach()


def test_the_kernel_is_one_on_which_the_benchmark_measures_the_dispatcher(host: Host) -> None:
    said: list[str] = []
    dispatcher.ensure_possible(said.append)
    assert not said, "nothing had to be installed"
