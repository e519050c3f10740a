"""bpf(2): the programs' compiler, maps, pins, programs, and what is read from them."""
