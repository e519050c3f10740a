"""The edge to NATS: receives documents, sends acknowledgements and measurements, answers queries."""
