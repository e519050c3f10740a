"""dropletctl: queries hosts over NATS."""
