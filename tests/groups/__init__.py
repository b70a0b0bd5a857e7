"""Histories of groups of examples, and what is made of them."""
