"""What capture says that a layer saw, against the NumPy account in `reference.py`."""

import jax
import jax.numpy as jnp
import numpy as np

import insgd_optax as insgd
from zoo.runs import built, diagonal, each_case, expected, of_halves, scalar

TOLERANCE = {"float32": 1e-6, "float64": 1e-10}


def seen_leaves(stats) -> dict[str, insgd.InputMoments]:
    return {path: moments for path, moments in stats.items() if moments is not None}


@each_case("float64", "float32")
def test_every_weight_is_told_the_mean_square_of_the_input_it_multiplies(name: str, dtype: str):
    stats = diagonal(name, dtype)
    for path, power in expected(name, dtype).items():
        moments = stats[path]
        assert moments is not None, path
        assert moments.sums.dtype == dtype, path
        np.testing.assert_allclose(
            moments.per_weight(), power.mean_square, rtol=TOLERANCE[dtype], err_msg=path
        )


@each_case("float64")
def test_rows_and_groups_are_counted(name: str, dtype: str):
    """One row for each example and position; a group for each layer that a leaf holds."""
    stats = diagonal(name, dtype)
    for path, power in expected(name, dtype).items():
        np.testing.assert_array_equal(stats[path].count, [power.rows] * power.groups, path)


@each_case("float64")
def test_leaves_that_are_no_weight_of_a_layer_get_no_statistics(name: str, dtype: str):
    stats = diagonal(name, dtype)
    assert seen_leaves(stats).keys() == expected(name, dtype).keys()
    assert len(stats) == len(jax.tree.leaves(built(name, dtype).params))


@each_case("float64")
def test_scalar_is_the_mean_over_the_inputs_of_diagonal(name: str, dtype: str):
    stats = scalar(name, dtype)
    for path, power in expected(name, dtype).items():
        layout = stats[path].layout
        matrices = np.asarray(layout.split(jnp.asarray(power.mean_square)))
        layer_power = np.broadcast_to(matrices.mean(axis=1, keepdims=True), matrices.shape)
        np.testing.assert_allclose(
            stats[path].per_weight(),
            layout.merge(jnp.asarray(layer_power)),
            rtol=TOLERANCE[dtype],
            err_msg=path,
        )


@each_case("float64", framework=False)
def test_statistics_of_a_batch_are_the_sum_of_those_of_its_halves(name: str, dtype: str):
    whole = diagonal(name, dtype), scalar(name, dtype)
    for all_rows, first, second in zip(whole, *of_halves(name, dtype), strict=True):
        for path, moments in seen_leaves(all_rows).items():
            counts = first[path].count + second[path].count
            np.testing.assert_array_equal(counts, moments.count, path)
            sums = first[path].sums + second[path].sums
            np.testing.assert_allclose(sums, moments.sums, rtol=1e-10, err_msg=path)
