"""Records the messages that a host receives, and replays such recordings."""
