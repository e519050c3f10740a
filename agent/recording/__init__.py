"""Records what a host receives, and replays such a recording."""
