"""The topology file: its model, its rules, and the addresses and places that follow from it. Pure."""
