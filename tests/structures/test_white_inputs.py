"""on_white_inputs: any optimizer in coordinates where every layer's inputs are white."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import insgd_optax as insgd
from zoo.case import inputs, normal

from .test_dense_definitions import STRUCTURES, dense_power

# Adam and Muon of optax mix precisions.
pytestmark = pytest.mark.framework

EPS = 0.05
every_structure = pytest.mark.parametrize("name", STRUCTURES)
# The roots of these are the roots of their inverses only where all variances are equal.
exact_roots = pytest.mark.parametrize(
    "name", [name for name in STRUCTURES if name not in ("mean_variances", "low_rank")]
)


def _loss(params: Any, x: Any) -> jax.Array:
    hidden = jnp.tanh(x @ params["a"] + params["c"][None])
    return jnp.mean((hidden @ params["b"]) ** 2)


def _problem(dtype: str = "float64") -> tuple[Any, Any]:
    shapes = {"a": (5, 4), "b": (4, 3), "c": (4,)}
    params = {name: normal(i, shape, dtype) for i, (name, shape) in enumerate(shapes.items())}
    return params, inputs(7, (8, 5), dtype) + jnp.asarray(0.5, dtype)


def _steps(tx: Any, structure: Any, batches: Any, params: Any) -> Any:
    grad_fn = jax.jit(insgd.value_and_grad(_loss, structure=structure))
    state, update = tx.init(params), jax.jit(tx.update)
    for x in batches:
        _, grads, stats = grad_fn(params, x)
        updates, state = update(grads, state, params, input_stats=stats)
        params = optax.apply_updates(params, updates)
    return params


@exact_roots
def test_with_sgd_inside_it_is_scale_by_input_where_the_history_stands_still(name):
    structure, (params, x) = STRUCTURES[name], _problem()
    _, grads, stats = insgd.value_and_grad(_loss, structure=structure)(params, x)
    white = insgd.on_white_inputs(optax.sgd(0.1), structure, eps=EPS)
    plain = optax.chain(insgd.scale_by_input(structure, eps=EPS), optax.sgd(0.1))
    states = white.init(params), plain.init(params)
    for _ in range(3):
        one, first = white.update(grads, states[0], params, input_stats=stats)
        other, second = plain.update(grads, states[1], params, input_stats=stats)
        states = first, second
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), one, other)


@every_structure
def test_it_is_the_inner_optimizer_between_two_roots_of_the_dense_matrix(name):
    """Adam, with weight decay: A^-1/2 adam(A^-1/2 G) and a decay of W itself."""
    structure, (params, x) = STRUCTURES[name], _problem()
    _, grads, stats = insgd.value_and_grad(_loss, structure=structure)(params, x)
    tx = insgd.on_white_inputs(optax.adamw(0.1, weight_decay=0.3), structure, eps=EPS)
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=stats)
    hidden = np.tanh(np.asarray(x) @ np.asarray(params["a"]) + np.asarray(params["c"]))
    adam = optax.adam(0.1)
    for leaf, rows in {"a": np.asarray(x), "b": hidden}.items():
        root = dense_power(name, rows, float(np.mean(rows**2)), -0.5)
        white = jnp.asarray(root @ np.asarray(grads[leaf]))
        moved, _ = adam.update(white, adam.init(white))
        expected = root @ np.asarray(moved) - 0.1 * 0.3 * np.asarray(params[leaf])
        np.testing.assert_allclose(updates[leaf], expected, rtol=0, atol=1e-9)
    plain = optax.adamw(0.1, weight_decay=0.3)
    expected, _ = plain.update(grads["c"], plain.init(params["c"]), params["c"])
    np.testing.assert_allclose(updates["c"], expected, rtol=1e-10)


@every_structure
@pytest.mark.parametrize(
    "inner", [optax.sgd(0.05, 0.9), optax.contrib.muon(0.05)], ids=["sgd", "muon"]
)
def test_inner_optimizers_of_every_kind_lower_the_loss(name, inner):
    structure, (params, x) = STRUCTURES[name], _problem("float32")
    tx = insgd.on_white_inputs(inner, structure)
    after = _steps(tx, structure, [x] * 20, params)
    assert _loss(after, x) < 0.7 * _loss(params, x)


def test_the_state_keeps_its_types_and_a_bad_batch_leaves_no_trace():
    structure, (params, x) = insgd.Full(rows=None, refresh_every=3), _problem()
    tx = insgd.on_white_inputs(optax.adam(0.1), structure)
    grad_fn = insgd.value_and_grad(_loss, structure=structure)

    @jax.jit
    def step(state: Any, x: Any) -> Any:
        _, grads, stats = grad_fn(params, x)
        return tx.update(grads, state, params, input_stats=stats)

    state = tx.init(params)
    _, after = step(state, x)
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, state)
    updates, bad = step(after, x * jnp.nan)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves((updates, bad)))
    np.testing.assert_array_equal(bad.history.power, after.history.power)
    np.testing.assert_array_equal(bad.history.factor, after.history.factor)


def test_missing_statistics_are_an_error_with_the_recipe():
    params, _ = _problem()
    tx = insgd.on_white_inputs(optax.adam(0.1))
    with pytest.raises(ValueError, match=r"input_stats(?s:.*)value_and_grad"):
        tx.update(params, tx.init(params), params)


@pytest.mark.parametrize("exponent", [-1.5, 0.5])
def test_an_exponent_out_of_range_is_an_error(exponent):
    with pytest.raises(ValueError, match="exponent must be from -1 to 0"):
        insgd.scale_by_input(exponent=exponent)


@every_structure
def test_the_exponent_zero_is_the_identity_bit_for_bit(name):
    structure, (params, x) = STRUCTURES[name], _problem("float32")
    _, grads, stats = insgd.value_and_grad(_loss, structure=structure)(params, x)
    tx = insgd.scale_by_input(structure, exponent=0)
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=stats)
    jax.tree.map(np.testing.assert_array_equal, updates, grads)
