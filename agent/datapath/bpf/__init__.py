"""bpf(2): the programs' compiler, maps, pins, programs, and queries of maps."""
