"""The models that presets are checked on, as plain NumPy and JAX, and how they are trained."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import insgd_optax as insgd
from zoo.case import integers, normal

Arrays = dict[str, Any]


def train(tx: Any, grad_fn: Any, params: Any, batches: Any) -> Any:
    """Parameters after a scan over batches."""

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        _, grads, input_stats = grad_fn(params, *batch)
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), batches)[0][0]


def assert_close(actual: Arrays, expected: Arrays, tolerance: float) -> None:
    for name, value in expected.items():
        largest = np.max(np.abs(value))
        np.testing.assert_allclose(actual[name], value, rtol=0, atol=tolerance * largest)


def mlp_loss(params: Any, x: Any, y: Any) -> jax.Array:
    hidden = jnp.tanh(x @ params["a"] + params["c"][None])
    logits = hidden @ params["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def mlp_inputs(params: Arrays, x: Any) -> Arrays:
    return {"a": x, "b": np.tanh(np.asarray(x) @ np.asarray(params["a"]) + np.asarray(params["c"]))}


def mlp(dtype: str, steps: int) -> tuple[Arrays, Any]:
    params = {
        "a": normal(0, (20, 16), dtype, 0.3),
        "b": normal(1, (16, 5), dtype, 0.3),
        "c": normal(2, (16,), dtype, 0.3),
    }
    sizes = np.exp(np.random.default_rng(3).normal(size=(steps, 1, 1)))  # the power changes
    x = normal(4, (steps, 8, 20), dtype) * jnp.asarray(sizes, dtype)
    return params, (x, integers(5, (steps, 8), 5))


PRESETS = {
    "nlms": (insgd.nlms(0.1), {"structure": insgd.Scalar()}),
    "paper": (insgd.paper(0.1), {"structure": insgd.Scalar()}),
    "released": (insgd.released(0.1), {"structure": insgd.Released()}),
    "project_page": (insgd.project_page(0.1, momentum=0.9), {"per_example": True}),
}


every_preset = pytest.mark.parametrize("name", PRESETS)
