"""Users' functions in the agent's part of the kernel: the executor installs them, the observation shows them."""

from __future__ import annotations

from dataclasses import replace

from agent.core.functions.programs import UncheckedProgram, content_of, verdict_key
from agent.core.functions.stages import Point
from agent.core.model.desired_entries import Function
from agent.core.model.features import Features
from agent.core.plan.actions import DeleteFunction, EnsureFunction
from agent.datapath.kernel import Kernel, KernelConfig
from agent.datapath.uninstall import remove
from protocol.documents import FunctionProgram

PASS = '#include "stage.h"\nint stage_function(struct stage *stage)\n{\n\treturn STAGE_GO_ON;\n}\n'
BIG_STACK = (
    '#include "stage.h"\nint stage_function(struct stage *stage)\n{\n\tvolatile __u8 big[216] = {};\n\n'
    "\tbig[stage->protocol & 127] = 1;\n\treturn big[3] ? STAGE_DROP : STAGE_GO_ON;\n}\n"
)


def function(source: str, point: Point) -> Function:
    program = FunctionProgram(source=source)
    return Function("f", point, 0, content_of(program), program)


async def test_functions_are_checked_installed_observed_and_removed(config: KernelConfig) -> None:
    kernel = await Kernel.open(replace(config, features=Features(functions=True)))
    wanted = function(PASS, Point.FORWARDED)
    one = UncheckedProgram(verdict_key(wanted.program, "forwarded"), Point.FORWARDED, wanted.program, b"")
    try:
        assert (await kernel.check([one]))[one.key].refusal == ""
        assert await kernel.executor.run([EnsureFunction(wanted)]) == []
        seen = (await kernel.observe({})).functions["f", Point.FORWARDED]
        assert (seen.content, seen.complete) == (wanted.content, True)
        assert await kernel.executor.run([DeleteFunction("f", Point.FORWARDED, 0)]) == []
        assert (await kernel.observe({})).functions == {}
    finally:
        await kernel.close()


async def test_a_function_may_use_224_bytes_of_stack_at_every_point(config: KernelConfig) -> None:
    kernel = await Kernel.open(replace(config, features=Features(functions=True)))
    try:
        for point in Point:
            program = FunctionProgram(source=BIG_STACK)
            one = UncheckedProgram(verdict_key(program, point.label), point, program, b"")
            assert (await kernel.check([one]))[one.key].refusal == "", point
    finally:
        await kernel.close()


async def test_uninstalling_removes_functions(config: KernelConfig) -> None:
    kernel = await Kernel.open(replace(config, features=Features(functions=True)))
    try:
        wanted = function(PASS, Point.PASSED)
        await kernel.check([UncheckedProgram(verdict_key(wanted.program, "passed"), Point.PASSED, wanted.program, b"")])
        assert await kernel.executor.run([EnsureFunction(wanted)]) == []
        assert list(config.pins.functions.iterdir())
    finally:
        await kernel.close()
    await remove(config, lambda line: None)
    assert not config.pins.root.exists()
