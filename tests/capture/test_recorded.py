"""The account that other tests compare the capture with, against numbers counted by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from zoo.recorded import recorded


@pytest.mark.parametrize("groups", [1, 2])
def test_a_weight_in_the_place_of_a_convolutions_input_meets_the_squares_of_the_kernel(groups):
    weight = np.random.default_rng(0).normal(size=(3, 4, 5))  # examples, channels, places
    kernel = np.random.default_rng(1).normal(size=(6, 4 // groups, 2))  # outputs, channels, window
    squares = np.zeros_like(weight)
    for channel in range(4):
        group, within = divmod(channel, 4 // groups)
        for output in range(6)[group * 6 // groups :][: 6 // groups]:
            for start in range(4):
                met = kernel[output, within] ** 2
                squares[:, channel, start : start + 2] += met

    def loss(params, kernel):
        results = lax.conv_general_dilated(
            params["weight"], kernel, (1,), "VALID", feature_group_count=groups
        )
        return jnp.sum(results)

    met = recorded(loss, {"weight": jnp.asarray(weight)}, jnp.asarray(kernel))["weight"]
    np.testing.assert_allclose(met.squares, squares, rtol=1e-12)
    np.testing.assert_array_equal(met.rows, 4 * 6 // groups)  # places and outputs of a result
