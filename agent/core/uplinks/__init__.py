"""Decisions from the state of this host's uplinks: XDP mode, MTU, lost addresses, announcements."""
