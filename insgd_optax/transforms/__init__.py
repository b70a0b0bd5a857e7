"""Gradient transformations, with one public transformation per file."""
