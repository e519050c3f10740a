"""Messages of the agent about itself: acknowledgements, status, counters, and answers to queries."""
