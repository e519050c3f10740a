"""Checks whether an agent can run on this host, and changes nothing: `droplet-agent --check`."""
