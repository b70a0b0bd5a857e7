"""Benchmarks: each prints the ratios of one run, side by side on one machine."""
