"""Structures, and what is built on them."""
