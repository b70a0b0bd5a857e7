"""Capture: runs a loss unchanged and says what every parameter's layer saw."""
