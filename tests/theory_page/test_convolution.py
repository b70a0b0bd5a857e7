"""A convolution against its explicit patches."""

from theory import convolution
from theory_page.holding import assert_holds


def test_a_convolution_learns_as_a_dense_layer_on_its_patches():
    """T22. Same statistic, same step; with the summed patch power μ < 2 is safe. Derived there."""
    assert_holds(convolution.t22())
