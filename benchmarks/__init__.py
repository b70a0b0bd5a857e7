"""Benchmarks that compare optimizers on one machine."""
