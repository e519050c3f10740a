"""One connection to a NATS server: settings, client, errors and faults, and JetStream's formats."""
