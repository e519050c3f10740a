"""Labs under test: real agents on several hosts, traffic between their endpoints, and what must hold at the end."""
