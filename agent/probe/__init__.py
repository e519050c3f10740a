"""Probes of the paths to other hosts: sockets, events, what is remembered from one agent to the next."""
