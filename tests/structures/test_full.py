"""Full: sub-sampled rows, refreshed factors, and inputs that leave its matrix singular."""

from typing import Any

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import insgd_optax as insgd
from insgd_optax.capture.layers.sampling import draw_of, drawn_rows
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
    level = jnp.trace(moment[0])[None] / features
    for exponent in (-1, -0.5, 0.5):
        factor = np.asarray(_exact().factor(moment, exponent, 0.0, level))[0]
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
        level = np.trace(total / weight) / 4
        if step in (0, 1, 3, 6, 12):
            damped = total / weight / level + DAMPING * np.eye(4)
        # The factor's shape is that of the last refresh, its size always that of now.
        expected = np.linalg.solve(damped, probe["w"]) / level
        np.testing.assert_allclose(updates["w"], expected, rtol=1e-9)


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


def _regression(scale: float) -> tuple[jax.Array, jax.Array]:
    x = inputs(0, (256, 8), "float32")
    return scale * x, x @ normal(1, (8, 1), "float32")


@pytest.mark.parametrize("refresh_every", [1, 10, 50])
@pytest.mark.parametrize("jump", [3.0, 30.0])
def test_inputs_that_grow_between_refreshes_are_divided_by_their_new_size(refresh_every, jump):
    structure = insgd.Full(rows=None, refresh_every=refresh_every)
    tx = insgd.insgd(0.5, structure=structure, momentum=None, relative=0.0)

    def loss_fn(params: Any, x: Any, y: Any) -> jax.Array:
        return jnp.mean((x @ params["w"] - y) ** 2) / 2

    grad_fn = insgd.value_and_grad(loss_fn, structure=structure)

    def step(carry: Any, scale: jax.Array) -> Any:
        params, state = carry
        x, y = _regression(1.0)
        loss, grads, stats = grad_fn(params, scale * x, y)
        updates, state = tx.update(grads, state, params, input_stats=stats)
        return ({"w": params["w"] + updates["w"]}, state), loss

    params = {"w": jnp.zeros((8, 1), jnp.float32)}
    scales = jnp.where(jnp.arange(120) < 52, 1.0, jump).astype(jnp.float32)
    _, losses = jax.lax.scan(step, (params, tx.init(params)), scales)
    # Right at the jump the weights are too large by it; after that the loss falls.
    assert float(jnp.max(losses[53:])) <= float(losses[52]) * 1.01
    assert float(losses[-1]) < 1e-2 * float(losses[52])


def test_a_layer_that_is_first_reached_between_refreshes_steps_as_on_white_inputs():
    structure = _exact(refresh_every=50)
    params = {"a": normal(0, (4, 3), "float64"), "b": normal(1, (4, 3), "float64")}

    def loss(params: Any, x: Any, taken: Any) -> jax.Array:
        branches = [lambda x: jnp.sum(x @ params["a"]), lambda x: jnp.sum(x @ params["b"])]
        return jax.lax.switch(taken, branches, x)

    grad_fn = jax.jit(insgd.value_and_grad(loss, structure=structure))
    tx, x = insgd.scale_by_input(structure), inputs(0, (8, 4), "float64")
    state = tx.init(params)
    for taken in (0, 0, 0, 0, 0, 1):
        _, grads, stats = grad_fn(params, x, jnp.asarray(taken))
        updates, state = tx.update(grads, state, params, input_stats=stats)
    expected = grads["b"] / ((1 + DAMPING) * jnp.mean(x**2))
    np.testing.assert_allclose(updates["b"], expected, rtol=1e-9)


def test_rows_whose_sums_are_alike_are_drawn_at_different_places():
    """One-hot rows: a hash of their plain sum would draw the same places from every batch."""
    rng, params = np.random.default_rng(0), {"w": jnp.zeros((6, 2))}
    structure = insgd.Full(rows=5)
    drawn = [
        np.asarray(
            _captured(structure, jnp.asarray(np.eye(6)[rng.permutation(60) % 6]), params)[1][
                "w"
            ].sums
        )
        for _ in range(12)
    ]
    assert len({tuple(np.diagonal(sums[0])) for sums in drawn}) > 3


def test_the_rows_of_a_very_large_batch_are_drawn_from_odd_places_too():
    places = np.concatenate(
        [
            np.asarray(drawn_rows(512, 2**25, draw_of([jnp.asarray([seed], jnp.float32)])))
            for seed in range(1, 20)
        ]
    )
    assert 0.4 < np.mean(places[places > 2**24] % 2) < 0.6
    assert np.all((places >= 0) & (places < 2**25))


def test_lookups_large_layers_and_single_vectors_get_a_diagonal():
    params = {"table": jnp.ones((9, 4)), "wide": jnp.ones((4, 2)), "vector": jnp.ones(2)}

    def loss(params: Any, tokens: Any) -> jax.Array:
        return jnp.sum(params["table"][tokens] @ params["wide"] @ params["vector"])

    report = insgd.explain(loss, params, jnp.arange(5), structure=insgd.Full(max_inputs=9))
    kinds = {row.path: type(row.structure).__name__ for row in report.rows}
    assert kinds == {"table": "Diagonal", "wide": "Full", "vector": "Diagonal"}
    assert report.state == sum(
        [9 + 1, 2 * 4 * 4 + 1, 2 + 1]  # history and factor, and the weight of each running mean
    )
    grad_fn = insgd.value_and_grad(loss, structure=insgd.Full(max_inputs=9))
    _, grads, stats = grad_fn(params, jnp.arange(5))
    tx = insgd.scale_by_input(insgd.Full(max_inputs=9), layouts=report.layouts)
    state = tx.init(params)
    assert state.power.size + state.power_weight.size + state.factor.size == report.state
    updates, _ = tx.update(grads, state, input_stats=stats)
    np.testing.assert_allclose(updates["table"][5:], 0.0)  # tokens that never came
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

    with pytest.raises(TypeError, match=r"complex.*MeanVariances\(\) or insgd_optax.Diagonal\(\)"):
        insgd.value_and_grad(loss, structure=insgd.Full())(params, x)


@pytest.mark.framework
@pytest.mark.parametrize(("heads", "features"), [(3, 16), (8, 16), (12, 8)])
def test_the_kernels_of_attention_need_no_layouts_and_not_much_room(heads, features):
    attention = nn.MultiHeadDotProductAttention(num_heads=heads)
    x = normal(0, (2, 4, heads * features), "float32")
    params = attention.init(jax.random.key(0), x, x)["params"]

    def loss_fn(params: Any, x: Any) -> jax.Array:
        return jnp.mean(attention.apply({"params": params}, x, x) ** 2)

    tx = insgd.scale_by_input(insgd.Full(refresh_every=1))
    state = tx.init(params)
    _, grads, input_stats = insgd.value_and_grad(loss_fn, structure=insgd.Full(refresh_every=1))(
        params, x
    )
    tx.update(grads, state, params, input_stats=input_stats)
    numbers, own = (sum(map(np.size, jax.tree.leaves(tree))) for tree in (state, params))
    assert numbers < 20 * own
