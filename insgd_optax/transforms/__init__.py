"""Transformations: what an optimizer chain is made of, one public transformation a file."""
