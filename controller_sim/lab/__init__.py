"""A lab of several hosts on one machine: namespaces, wires, processes, and the controller at work in it."""
