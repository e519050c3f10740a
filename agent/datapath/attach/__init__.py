"""Programs on uplinks and endpoints' interfaces: the hooks of XDP and tc, the modes of XDP, and who else is there."""
