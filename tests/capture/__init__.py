"""Tests of the capture: which leaf is a layer's weight, and what its layer saw."""
