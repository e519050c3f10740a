"""Benchmarks against the alternatives that a user would choose, measured in one run and reported as ratios.

Owns everything that it measures with: namespaces, wires, yardstick programs, probes. Leaves nothing behind.
"""
