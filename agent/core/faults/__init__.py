"""Standing faults: when one begins, changes and ends."""
