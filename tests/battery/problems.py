"""Tiny models, and the two ways to build the optimizer, that the battery runs on."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import insgd_optax as insgd


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model, its data and its loss."""

    params: Any
    batch: tuple[jax.Array, jax.Array]
    loss_fn: Callable[[Any, Any], jax.Array]

    def stats_of(
        self, params: Any = None, batch: Any = None, structure: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        """Gradients and input statistics of one batch; this problem's own where not given."""
        grad_fn = _jitted(self.loss_fn, structure or insgd.MeanVariances())
        params = self.params if params is None else params
        _, grads, input_stats = grad_fn(params, self.batch if batch is None else batch)
        return grads, input_stats

    def batches(self, number: int) -> tuple[Any, Any]:
        """Stacked batches for a scan; their inputs grow, so that the history changes."""
        inputs, targets = self.batch
        scales = jnp.arange(1, number + 1, dtype=inputs.dtype)
        scales = scales.reshape((number,) + (1,) * inputs.ndim)
        return scales * inputs[None], jnp.broadcast_to(targets, (number, *targets.shape))


@functools.cache
def _jitted(loss_fn: Callable[[Any, Any], jax.Array], structure: Any) -> Callable[..., Any]:
    """One compiled function for every test that asks for the same statistics."""
    return jax.jit(insgd.value_and_grad(loss_fn, structure=structure))


def _normal(seed: int, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def _mean_square(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(predictions - targets))


@functools.cache
def regression(dtype: Any = jnp.float32) -> Problem:
    """A linear map with a rank-2 weight, and a bias."""
    params = {"weight": _normal(0, (4, 2), dtype), "bias": jnp.zeros((2,), dtype)}

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        inputs, targets = batch
        predictions = inputs @ params["weight"] + params["bias"][None, :]
        return _mean_square(predictions, targets)

    return Problem(params, (_normal(1, (6, 4), dtype), _normal(2, (6, 2), dtype)), loss_fn)


@functools.cache
def perceptron(dtype: Any = jnp.float32) -> Problem:
    """Two dense layers with biases, as a nested dict."""
    params = {
        "hidden": {"kernel": _normal(0, (4, 3), dtype), "bias": _normal(1, (3,), dtype)},
        "head": {"kernel": _normal(2, (3, 2), dtype), "bias": _normal(3, (2,), dtype)},
    }

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        inputs, targets = batch
        hidden = inputs @ params["hidden"]["kernel"] + params["hidden"]["bias"][None, :]
        head = params["head"]
        predictions = jnp.tanh(hidden) @ head["kernel"] + head["bias"][None, :]
        return _mean_square(predictions, targets)

    return Problem(params, (_normal(4, (6, 4), dtype), _normal(5, (6, 2), dtype)), loss_fn)


@functools.cache
def convnet(dtype: Any = jnp.float32) -> Problem:
    """A strided convolution and a dense head."""
    params = {
        "conv": {"kernel": _normal(0, (3, 3, 1, 2), dtype), "bias": _normal(1, (2,), dtype)},
        "head": {"kernel": _normal(2, (8, 2), dtype)},
    }

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        images, targets = batch
        features = jax.lax.conv_general_dilated(
            images,
            params["conv"]["kernel"],
            window_strides=(2, 2),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        features = jnp.tanh(features + params["conv"]["bias"][None, None, None, :])
        flat = features.reshape(images.shape[0], 8)
        return _mean_square(flat @ params["head"]["kernel"], targets)

    return Problem(params, (_normal(3, (5, 4, 4, 1), dtype), _normal(4, (5, 2), dtype)), loss_fn)


def as_insgd(structure: Any, **options: Any) -> optax.GradientTransformationExtraArgs:
    """The whole optimizer: normalizer, momentum, learning rate."""
    return insgd.insgd(0.1, structure=structure, **options)


every_problem = pytest.mark.parametrize("make_problem", [regression, perceptron, convnet])
every_optimizer = pytest.mark.parametrize(
    "make_optimizer", [as_insgd, insgd.scale_by_input], ids=["insgd", "scale_by_input"]
)
every_structure = pytest.mark.parametrize(
    "structure", [insgd.Scalar(), insgd.MeanVariances()], ids=["scalar", "mean_variances"]
)


def train(
    tx: optax.GradientTransformationExtraArgs,
    problem: Problem,
    structure: Any,
    *,
    steps: int = 3,
    params: Any = None,
) -> tuple[Any, Any]:
    """Parameters and optimizer state after some steps on the same batch.

    Only the gradient is compiled: it is the same for all tests, and a compilation for every
    optimizer would take most of the battery's time.
    """
    params = problem.params if params is None else params
    state = tx.init(params)
    for _ in range(steps):
        grads, input_stats = problem.stats_of(params, structure=structure)
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_close(actual: Any, expected: Any, rtol: float = 1e-6) -> None:
    """The same leaves in the same order, to a relative tolerance; containers may differ."""
    actual_leaves, expected_leaves = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert len(actual_leaves) == len(expected_leaves)
    for one, other in zip(actual_leaves, expected_leaves, strict=True):
        np.testing.assert_allclose(
            np.asarray(one, np.float64), np.asarray(other, np.float64), rtol=rtol, atol=rtol
        )


def avals(tree: Any) -> list[Any]:
    """What jit keys on for each leaf: shape, dtype, weak type and sharding."""
    return [jax.typeof(leaf) for leaf in jax.tree.leaves(tree)]


def assert_says(error: pytest.ExceptionInfo[BaseException], *words: str) -> None:
    message = str(error.value)
    for word in words:
        assert word.lower() in message.lower(), f"{word!r} is not in:\n{message}"
