"""Liveness and path MTU of the paths to other hosts (RFC 8899 vocabulary)."""
