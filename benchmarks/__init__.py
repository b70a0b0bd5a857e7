"""Benchmarks: cost side by side on one machine, and theory beside what is measured."""
