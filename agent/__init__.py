"""The agent: receives configuration from NATS and applies it through XDP programs, BPF maps and netlink."""

__version__ = "0.1.0"
