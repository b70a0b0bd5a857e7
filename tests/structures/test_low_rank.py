"""LowRank: what its sketch finds, and that it stays positive whatever the scale."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import insgd_optax as insgd
from zoo.case import inputs, normal

DAMPING = 0.3


def _loss(params: Any, x: Any) -> jax.Array:
    return jnp.mean(jnp.sin(x @ params["w"]))


def _stats(structure: Any, x: Any) -> Any:
    params = {"w": jnp.eye(x.shape[1], dtype=x.dtype)}
    return insgd.value_and_grad(_loss, structure=structure)(params, x)[2]


def _matrix(structure: Any, x: Any, exponent: float = -1) -> np.ndarray:
    """The matrix that a layer with these rows multiplies its gradient by."""
    identity = {"w": jnp.eye(x.shape[1], dtype=x.dtype)}
    tx = insgd.scale_by_input(structure, exponent=exponent)

    @jax.jit
    def update(x: Any) -> Any:
        updates: Any = tx.update(identity, tx.init(identity), input_stats=_stats(structure, x))[0]
        return updates["w"]

    return np.asarray(update(x), np.float64)


def _dense(x: Any) -> np.ndarray:
    """The second moment, damped."""
    moment = np.asarray(x).T @ np.asarray(x) / len(x)
    damping = DAMPING * np.trace(moment) / len(moment)
    return (moment + damping * np.eye(len(moment))) / (1 + DAMPING)


@pytest.mark.parametrize("rank", [6, 7, 100])
@pytest.mark.parametrize("exponent", [-1, -0.5, 0])
def test_with_a_direction_for_every_input_it_is_full(rank, exponent):
    x = inputs(0, (40, 6), "float64") @ normal(1, (6, 6), "float64") + 0.5
    full = insgd.Full(DAMPING, refresh_every=1, rows=None)
    actual = _matrix(insgd.LowRank(rank, DAMPING, rows=None), x, exponent)
    expected = _matrix(full, x, exponent) / (1 + DAMPING) ** exponent
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10 * np.max(np.abs(expected)))


@pytest.mark.parametrize(
    ("dtype", "rank", "tolerance"),
    [("float64", 3, 1e-9), ("float64", 8, 1e-9), ("float32", 8, 1e-3)],
)
def test_inputs_with_no_more_directions_than_the_rank_are_inverted_exactly(dtype, rank, tolerance):
    x = inputs(0, (60, 3), dtype) @ normal(1, (3, 20), dtype)
    actual, expected = _matrix(insgd.LowRank(rank, DAMPING, None), x), np.linalg.inv(_dense(x))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.max(expected))


def test_the_matrix_itself_undoes_its_inverse_and_two_roots_are_the_whole():
    """Two roots only where all features have the same rest: here their directions are found."""
    x = inputs(0, (60, 3), "float64") @ normal(1, (3, 12), "float64")
    structure = insgd.LowRank(4, DAMPING)
    power = _stats(structure, x)["w"].mean()
    level = jnp.mean(power[:, :, 0], axis=1)

    def dense(exponent: float) -> jax.Array:
        factor = structure.factor(power, exponent, 0.0, level)
        return structure.apply(factor, jnp.eye(12)[None])[0]

    np.testing.assert_allclose(dense(1) @ dense(-1), np.eye(12), atol=1e-9)
    np.testing.assert_allclose(dense(0.5) @ dense(0.5), dense(1), atol=1e-9)


def test_a_single_direction_finds_the_mean_of_inputs_behind_a_relu():
    x = jax.nn.relu(normal(0, (2000, 30), "float64"))
    moment = np.asarray(x.T @ x) / len(x)

    def largest(structure: Any) -> float:
        return float(np.max(np.linalg.eigvals(_matrix(structure, x) @ moment).real))

    assert largest(insgd.LowRank(1, 0.1, rows=None)) < 2 < 8 < largest(insgd.Diagonal())


def test_more_directions_leave_less_to_the_largest_eigenvalue():
    x = inputs(0, (500, 40), "float64") * jnp.exp(-jnp.arange(40) / 8)[None]
    x = x @ jnp.linalg.qr(normal(1, (40, 40), "float64"))[0]
    moment = np.asarray(x.T @ x) / len(x)
    left = []
    for rank in (1, 16, 40):
        found = _matrix(insgd.LowRank(rank, DAMPING, rows=None), x) @ moment
        left.append(float(np.max(np.linalg.eigvals(found).real)))
    assert left[0] > 1.5 * left[1] > 1.5**2 * left[2]


def test_sums_of_two_halves_of_a_batch_are_the_sums_of_the_whole():
    structure, x = insgd.LowRank(3, rows=None), inputs(0, (10, 8), "float64")
    whole = _stats(structure, x)["w"]
    halves = [_stats(structure, part)["w"] for part in (x[:4], x[4:])]
    np.testing.assert_allclose(halves[0].sums + halves[1].sums, whole.sums, rtol=1e-12)
    np.testing.assert_array_equal(halves[0].count + halves[1].count, whole.count)


def test_only_some_rows_are_looked_at_where_that_is_asked_for():
    stats = _stats(insgd.LowRank(3, rows=4), inputs(0, (10, 8), "float64"))["w"]
    assert stats.sums.shape == (1, 8, 4) and float(stats.count[0]) == 4


@pytest.mark.parametrize(("features", "rank"), [(1, 1), (9, 8), (40, 1), (40, 8)])
def test_in_float32_the_inverse_is_symmetric_and_within_its_bounds(features, rank):
    structure = insgd.LowRank(rank)

    @jax.jit
    def inverse_of(x: Any) -> Any:
        """Relative to the mean square."""
        sums = _stats(structure, x)["w"].sums / len(x)
        level = jnp.mean(sums[:, :, 0], axis=1)
        factor = structure.factor(sums, -1, 0.0, level)
        return structure.apply(factor, jnp.eye(features, dtype=x.dtype)[None])[0]

    @hypothesis.settings(max_examples=100, deadline=None)
    @hypothesis.given(
        scale=st.floats(-14, 14), spread=st.floats(0, 6), mean=st.sampled_from([0.0, 1.0, 1e3]),
        alive=st.sampled_from([1, 2, 30]), seed=st.integers(0, 9),
    )  # fmt: skip
    def check(scale: float, spread: float, mean: float, alive: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        scales = 10.0 ** (np.clip(scale, spread - 14, 14) - spread * rng.random(features))
        x = (mean + rng.normal(size=(30, features))) * scales * (np.arange(30) < alive)[:, None]
        inverse = np.asarray(inverse_of(jnp.asarray(x, jnp.float32)), np.float64)
        np.testing.assert_allclose(inverse, inverse.T, rtol=0, atol=1e-5)
        eigenvalues = np.linalg.eigvalsh((inverse + inverse.T) / 2)
        # Those of the approximation are between λ P̄ / (1 + λ) and (n + λ) P̄ / (1 + λ).
        assert 0.99 * 2 / (features + 1) < eigenvalues[0] <= eigenvalues[-1] < 2.001

    check()


def test_inputs_of_zero_take_no_step():
    np.testing.assert_array_equal(_matrix(insgd.LowRank(), jnp.zeros((4, 12))), np.zeros((12, 12)))


def test_lookups_get_frequency_and_single_vectors_mean_variances():
    params = {"table": jnp.ones((9, 4)), "wide": jnp.ones((4, 2)), "vector": jnp.ones(2)}

    def loss(params: Any, tokens: Any) -> jax.Array:
        return jnp.sum(params["table"][tokens] @ params["wide"] @ params["vector"])

    report = insgd.explain(loss, params, jnp.arange(5), structure=insgd.LowRank(2, 0.5))
    kept = {row.path: row.structure for row in report.rows}
    assert kept == {
        "table": insgd.Frequency(),
        "wide": insgd.LowRank(2, 0.5),
        "vector": insgd.MeanVariances(0.5),
    }
    assert report.state == 9 + 4 * 3 + 2 * 2 + 3  # and the weight of each running mean


def test_the_guard_divides_a_much_larger_batch_by_its_power():
    structure, small = insgd.LowRank(2), inputs(0, (8, 6), "float64")
    grads, updates = {"w": normal(0, (6, 6), "float64")}, {}
    for guard in (True, False):
        tx = insgd.scale_by_input(structure, decay=0.99, guard=guard)
        state = tx.init(grads)
        for x in (small, small, 100 * small):
            updates[guard], state = tx.update(grads, state, input_stats=_stats(structure, x))
    ratio = np.asarray(updates[False]["w"] / updates[True]["w"])
    # The history after the third batch has a third of 10,000 times the power, and 2 thirds of 1.
    np.testing.assert_allclose(ratio, 3.0, rtol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"rows": 0}, "rows must be at least 1"),
        ({"damping": 0}, "damping must be positive"),
    ],
)
def test_a_setting_out_of_range_is_an_error_that_names_it(options, message):
    with pytest.raises(ValueError, match=message):
        insgd.LowRank(**options)
