"""Probes of the paths to other hosts: sockets, events, and the path records that outlive the agent."""
