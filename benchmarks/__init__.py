"""Benchmarks: optimizers side by side on one machine."""
