"""What the agent sends over the bus about itself."""
