"""Optax's checks for contributed optimizers, in our own words."""
