"""Layers with complex numbers: what is kept of their inputs, and what a step makes of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import insgd_optax as insgd
from zoo.case import inputs, normal

# Real factors meet complex gradients, which JAX's strict promotion refuses.
pytestmark = pytest.mark.framework


def numbers(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return inputs(seed, shape, "float64") + 1j * normal(seed + 50, shape, "float64")


X, PARAMS = numbers(0, (12, 5)) + 2, {"w": numbers(1, (5, 3))}
STRUCTURE = insgd.MeanVariances(damping=0.2)


def distance(params: Any, x: jax.Array, y: Any) -> jax.Array:
    return jnp.mean(jnp.abs(x @ params["w"] - y) ** 2)


def test_complex_inputs_count_as_having_no_mean():
    _, grads, input_stats = insgd.value_and_grad(distance, structure=STRUCTURE)(PARAMS, X, 1)
    tx = insgd.scale_by_input(STRUCTURE)
    found = tx.update(grads, tx.init(PARAMS), PARAMS, input_stats=input_stats)[0]["w"]
    power = np.mean(np.abs(X) ** 2, axis=0)
    expected = np.asarray(grads["w"]) / ((power + 0.2 * power.mean()) / 1.2)[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_the_default_fits_a_complex_layer():
    y, params = X @ PARAMS["w"], {"w": jnp.zeros_like(PARAMS["w"])}
    tx = insgd.insgd(0.1)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        loss, grads, input_stats = insgd.value_and_grad(distance)(params, X, y)
        grads = jax.tree.map(jnp.conj, grads)  # JAX's convention, as for every optimizer
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        return optax.apply_updates(params, updates), state, loss

    state, losses = tx.init(params), []
    for _ in range(300):
        params, state, value = step(params, state)
        losses.append(float(value))
    assert losses[-1] < 1e-2 * losses[0]
