"""Parts that benchmarks have in common."""
