"""Follows the kernel's routes and neighbours and writes the map `next_hops`."""
