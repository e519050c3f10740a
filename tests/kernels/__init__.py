"""A second kernel: Debian's own, booted under emulation, with tests that need what it has and this machine may lack.

`python -m tests.kernels` (`make kernels`) fetches the kernel, boots it with this machine's files as its root, shared
read-only, and runs the tests of `inside` there. What the tests write is gone with the emulated machine.
"""
