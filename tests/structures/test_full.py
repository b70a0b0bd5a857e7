"""Full: sub-sampled rows, refreshed factors, and inputs that leave its matrix singular."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import insgd_optax as insgd
from zoo.case import inputs, normal

DAMPING = 0.2


def _loss(params: Any, x: Any) -> jax.Array:
    return jnp.mean(jnp.sin(x @ params["w"]))


def _captured(structure: Any, x: Any, params: Any) -> Any:
    _, grads, stats = insgd.value_and_grad(_loss, structure=structure)(params, x)
    return grads, stats


def _exact(**options: Any) -> insgd.Full:
    return insgd.Full(**({"damping": DAMPING, "rows": None, "refresh_every": 1} | options))


def _solved(rows: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    moment = rows.T @ rows / len(rows)
    damping = DAMPING * np.trace(moment) / len(moment)
    return np.linalg.solve(moment + damping * np.eye(len(moment)), gradient)


SINGULAR = {
    "zero": np.zeros((6, 4)),
    "constant": np.full((6, 4), 3.0),
    "one_row": np.arange(4.0)[None] + 1,
    "one_live_feature": np.eye(4)[:1] * np.arange(1, 7)[:, None],
    "tiny": 1e-12 * np.random.default_rng(0).normal(size=(6, 4)),
    "huge": 1e12 * np.random.default_rng(0).normal(size=(6, 4)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SINGULAR)
@pytest.mark.parametrize("exponent", [-1, -0.5])
def test_no_direction_is_divided_by_less_than_the_damping(name, dtype, exponent):
    x, params = jnp.asarray(SINGULAR[name], dtype), {"w": normal(0, (4, 3), dtype)}
    grads, stats = _captured(_exact(), x, params)
    tx = insgd.scale_by_input(_exact(), exponent=exponent)
    probe = {"w": normal(1, (4, 3), dtype)}  # has parts in directions that no input has
    updates, _ = tx.update(probe, tx.init(params), params, input_stats=stats)
    power = np.sum(SINGULAR[name] ** 2) / SINGULAR[name].size
    if power == 0:
        np.testing.assert_array_equal(updates["w"], np.zeros((4, 3)))
        return
    lengths = [np.linalg.norm(np.asarray(leaf, np.float64)) for leaf in (updates["w"], probe["w"])]
    assert 0 < lengths[0] <= (DAMPING * power) ** exponent * lengths[1] * (1 + 1e-4)
    assert np.all(np.isfinite(grads["w"]))


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(st.integers(1, 8), st.integers(1, 6), st.floats(-3, 3), st.integers(0, 99))
def test_the_factor_is_symmetric_and_positive_definite(rows, features, scale, seed):
    x = 10.0**scale * np.random.default_rng(seed).normal(size=(rows, features))
    moment = jnp.asarray((x.T @ x / rows)[None])
    for exponent in (-1, -0.5, 0.5):
        factor = np.asarray(_exact().factor(moment, exponent, 0.0))[0]
        np.testing.assert_allclose(factor, factor.T, atol=1e-12 * np.abs(factor).max())
        assert np.linalg.eigvalsh(factor).min() > 0


def test_the_rows_of_a_batch_are_drawn_without_bias():
    """The mean of the estimates over many batches is the moment of all rows."""
    size, rows = 60, 7
    base = np.random.default_rng(0).normal(size=(size, 3)) * np.linspace(0.2, 3, size)[:, None]
    structure, params = insgd.Full(rows=rows), {"w": jnp.zeros((3, 2))}

    @jax.jit
    @jax.vmap
    def estimate(shift: jax.Array) -> Any:
        x = jnp.asarray(base) + shift  # another batch, as near to this one as can be
        _, stats = _captured(structure, x, params)
        return stats["w"].mean()[0], stats["w"].count[0]

    found, counts = estimate(1e-4 * jnp.arange(4000.0))
    np.testing.assert_array_equal(counts, rows)
    exact = np.mean([(base + s).T @ (base + s) / size for s in 1e-4 * np.arange(4000)], axis=0)
    error = np.std(found, axis=0) / np.sqrt(4000)
    assert np.all(np.abs(np.mean(found, axis=0) - exact) < 5 * error)
    assert np.all(np.std(found, axis=0) > 0.05 * np.abs(exact).max())  # they do differ


def test_more_rows_than_there_are_means_all_of_them():
    x, params = inputs(0, (9, 4), "float64"), {"w": jnp.zeros((4, 2))}
    _, some = _captured(insgd.Full(rows=9), x, params)
    _, all_rows = _captured(insgd.Full(rows=None), x, params)
    np.testing.assert_array_equal(some["w"].sums, all_rows["w"].sums)


def test_drawn_patches_are_patches_of_the_input():
    """On an image whose patches are alike, any of them gives the moment of all."""
    x = jnp.tile(jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), (3, 3))[None, :, :, None]

    def loss(params: Any, x: Any) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, params["w"], (2, 2), "VALID", dimension_numbers=numbers)
        return jnp.mean(y)

    params = {"w": jnp.ones((2, 2, 1, 3))}
    _, _, stats = insgd.value_and_grad(loss, structure=insgd.Full(rows=4))(params, x)
    patch = np.asarray([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(stats["w"].mean()[0], np.outer(patch, patch), rtol=1e-12)


def test_a_factor_is_kept_between_refreshes_and_renewed_often_while_the_history_is_young():
    structure = _exact(refresh_every=6)
    params = {"w": normal(0, (4, 3), "float64")}
    tx = insgd.scale_by_input(structure, decay=0.5, guard=False)
    probe, state, total, weight = {"w": normal(9, (4, 3), "float64")}, tx.init(params), 0.0, 0.0
    for step in range(14):
        x = np.asarray(inputs(step, (8, 4), "float64"))
        _, stats = _captured(structure, jnp.asarray(x), params)
        updates, state = tx.update(probe, state, params, input_stats=stats)
        total = 0.5 * total + 0.5 * x.T @ x / 8
        weight = 0.5 * weight + 0.5
        if step in (0, 1, 3, 6, 12):
            moment = total / weight
            damped = moment + DAMPING * np.trace(moment) / 4 * np.eye(4)
        np.testing.assert_allclose(updates["w"], np.linalg.solve(damped, probe["w"]), rtol=1e-9)


def test_a_batch_that_is_not_finite_leaves_the_kept_factor_as_it_was():
    structure = _exact(refresh_every=4)
    params, tx = {"w": normal(0, (4, 3), "float64")}, insgd.scale_by_input(_exact(refresh_every=4))
    good, bad = inputs(0, (8, 4), "float64"), jnp.full((8, 4), jnp.nan)
    state = tx.init(params)
    for x in (bad, good, bad):
        grads, stats = _captured(structure, x, params)
        updates, state = tx.update(grads, state, params, input_stats=stats)
    assert int(state.skipped) == 2
    grads, stats = _captured(structure, good, params)
    updates, state = tx.update(grads, state, params, input_stats=stats)
    expected = _solved(np.asarray(good), np.asarray(grads["w"]))
    np.testing.assert_allclose(updates["w"], expected, rtol=1e-9)


def test_the_guard_divides_a_much_larger_batch_by_its_own_power():
    params, structure = {"w": normal(0, (4, 3), "float64")}, _exact(refresh_every=50)
    small = inputs(0, (8, 4), "float64")
    updates = {}
    for guard in (True, False):
        tx = insgd.scale_by_input(structure, decay=0.99, guard=guard)
        state = tx.init(params)
        for x in (small, small, 100 * small):
            grads, stats = _captured(structure, x, params)
            updates[guard], state = tx.update(grads, state, params, input_stats=stats)
    ratio = np.asarray(updates[False]["w"] / updates[True]["w"])
    # The history after the third batch has a third of 10,000 times the power, and 2 thirds of 1.
    np.testing.assert_allclose(ratio, 3.0, rtol=0.02)


def test_lookups_large_layers_and_single_vectors_get_a_diagonal():
    params = {"table": jnp.ones((9, 4)), "wide": jnp.ones((4, 2)), "vector": jnp.ones(2)}

    def loss(params: Any, tokens: Any) -> jax.Array:
        return jnp.sum(params["table"][tokens] @ params["wide"] @ params["vector"])

    report = insgd.explain(loss, params, jnp.arange(5), structure=insgd.Full(max_inputs=4))
    kinds = {row.path: type(row.structure).__name__ for row in report.rows}
    assert kinds == {"table": "Diagonal", "wide": "Full", "vector": "Diagonal"}
    report = insgd.explain(loss, params, jnp.arange(5), structure=insgd.Full(max_inputs=3))
    assert {type(row.structure).__name__ for row in report.rows} == {"Diagonal"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": -0.1}, "damping must be at least 0"),
        ({"rows": 0}, "rows must be at least 1"),
        ({"refresh_every": 0}, "refresh_every must be at least 1"),
        ({"max_inputs": 0}, "max_inputs must be at least 1"),
    ],
)
def test_a_setting_out_of_range_is_an_error_that_names_it(options, message):
    with pytest.raises(ValueError, match=message):
        insgd.Full(**options)


def test_complex_inputs_are_an_error_that_says_what_to_use():
    x, params = jnp.ones((3, 2), jnp.complex128), {"w": jnp.ones((2, 2), jnp.complex128)}

    def loss(params: Any, x: Any) -> jax.Array:
        return jnp.sum(jnp.abs(x @ params["w"]))

    with pytest.raises(TypeError, match=r"complex.*Scalar\(\) or insgd_optax.Diagonal\(\)"):
        insgd.value_and_grad(loss, structure=insgd.Full())(params, x)
