"""droplet-lab: commands, options and what they print."""
