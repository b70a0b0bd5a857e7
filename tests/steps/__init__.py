"""The step: how long it is, and what it does over many of them."""
