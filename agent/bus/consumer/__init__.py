"""The host's consumer of the configuration stream: reset, pull, admission of messages, and the snapshot."""
