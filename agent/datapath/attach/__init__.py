"""XDP attachment to the uplinks: hooks, modes, and transit XDP."""
