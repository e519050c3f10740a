"""dropletctl: what an operator asks the hosts over NATS."""
