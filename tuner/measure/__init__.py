"""Measure: whether a kernel is right, and how fast it is, in a process of its own."""
