"""Optimizers at their usual learning rates, untuned, on many kinds of networks."""
