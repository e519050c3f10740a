"""The veth pairs of endpoints, on the host and in the tenant's namespace."""
