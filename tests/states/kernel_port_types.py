"""Proves to mypy that the real kernel and the fake satisfy the port, with all parameters, results and properties.

`make types` checks this file, and with it the fake; nothing runs it.
"""

from __future__ import annotations

from fake_kernel import FakeKernel

from agent.datapath.kernel import Kernel
from agent.reconcile.kernel_port import KernelPort


def real(kernel: Kernel) -> KernelPort:
    """Return the real kernel as the port."""
    return kernel


def fake(kernel: FakeKernel) -> KernelPort:
    """Return the fake as the port."""
    return kernel
