"""The edge to the kernel: the only place that imports bcc and pyroute2, or makes a bpf(2) call."""
