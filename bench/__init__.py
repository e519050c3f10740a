"""Benchmarks of this project beside the peers that a user would pick instead, measured in one run and told as ratios.

Owns everything that it measures with: namespaces, wires, yardstick programs, probes. Leaves nothing behind.
"""
