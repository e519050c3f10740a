"""The simulated controller and the multi-host lab: they stand in for a management plane."""
