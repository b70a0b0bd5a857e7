"""Sensitivity to the learning rate: accuracy over five decades, and the paper's case."""
