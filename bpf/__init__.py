"""The C that runs in the kernel: this package only carries the source files."""
