"""Loops of each framework: with the same lines as for Adam, and the same numbers by hand."""
