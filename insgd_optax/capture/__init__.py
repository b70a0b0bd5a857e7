"""Capture: runs a loss unchanged and records the input statistics of every layer."""
