"""Benchmarks: data sets, whole runs, and measures that a round's own examination does not take."""
