"""The transit daemon: NATS on one side, XDP and netlink on the other."""

__version__ = "0.1.0"
