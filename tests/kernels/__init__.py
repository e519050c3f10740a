"""A second kernel: Debian's own, booted under emulation, with tests that need what it has and this machine may lack.

`python -m tests.kernels` (`make kernels`) fetches the kernel, boots it with this machine's files as its root, read-only,
and runs the tests of `inside` there. Nothing of the machine is changed: what the tests write is gone with the emulator.
"""
