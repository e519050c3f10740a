"""Publishes standing faults as log lines, events and status."""
