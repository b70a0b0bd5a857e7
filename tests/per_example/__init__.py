"""Per-example normalization."""
