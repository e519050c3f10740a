"""Functions at stage points: their slots, their chains, and what a host says of their programs."""
