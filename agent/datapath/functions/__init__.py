"""Turns users' programs into checked, loaded and pinned BPF programs at the stage points."""
