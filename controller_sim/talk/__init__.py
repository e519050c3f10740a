"""Traffic between endpoints of a lab, with the data compared."""
