"""Imbalanced classes: every optimizer with every way to make up for the imbalance, tuned alike."""
