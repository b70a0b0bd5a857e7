"""`released`, against the authors' rule written again in NumPy."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import insgd_optax as insgd
from reference import im2col
from zoo.case import integers, normal

from .models import Arrays, assert_close, mlp, mlp_inputs, mlp_loss, train


def _standardized(x: np.ndarray) -> np.ndarray:
    """Over the last axis, as the authors do it."""
    deviation = np.std(x, axis=-1, ddof=1, keepdims=True)
    return (x - x.mean(axis=-1, keepdims=True)) / np.maximum(deviation, 0.01)


def dense_divisor(x: np.ndarray, order: int) -> np.ndarray:
    power = np.mean(np.sum(np.abs(_standardized(x)) ** order, axis=1)) + 0.1
    return np.maximum(np.log(power), 0.01)


def channel_divisors(x: np.ndarray, order: int) -> np.ndarray:
    """One for every channel of (batch, channels, height, width)."""
    flat = x.reshape(*x.shape[:2], -1)
    power = np.mean(np.sum(np.abs(_standardized(flat)) ** order, axis=2), axis=0)
    return np.maximum(np.log(power), 0.01)


def released_loop(
    loss: Callable[..., Any],
    divisors: Callable[..., Arrays],
    params: Arrays,
    batches: Any,
    setting: Any,
) -> Arrays:
    """The step of the authors' `insgd.py`: decay, momentum, then the normalizer, for weights."""
    learning_rate, momentum = setting["learning_rate"], setting["momentum"]
    params = {name: np.asarray(value) for name, value in params.items()}
    buffer, gradient = {}, jax.jit(jax.grad(loss))
    factor = np.sqrt(1 + 1e-6) / (np.sqrt(1 - momentum) + 1e-6)
    for x, y in zip(*batches, strict=True):
        grads = gradient(params, x, y)
        by = divisors(params, np.asarray(x), setting["order"])
        moved = {}
        for name, value in params.items():
            g = np.asarray(grads[name]) + setting["weight_decay"] * value
            buffer[name] = momentum * buffer[name] + g if name in buffer else g
            step = g + momentum * buffer[name] if setting["nesterov"] else buffer[name]
            step = factor * step / by[name] if name in by else step
            moved[name] = (value - learning_rate * step).astype(value.dtype)
        params = moved
    return params


def mlp_divisors(params: Arrays, x: np.ndarray, order: int) -> Arrays:
    return {name: dense_divisor(seen, order) for name, seen in mlp_inputs(params, x).items()}


def cnn_loss(params: Any, x: Any, y: Any, order: str = "NCHW") -> jax.Array:
    """Two convolutions (OIHW, the second strided and without bias) and a dense layer."""
    numbers = (order, "OIHW", "NCHW")
    first = jax.lax.conv_general_dilated(
        x, params["a"], (1, 1), [(1, 1), (1, 1)], dimension_numbers=numbers
    )
    hidden = jax.nn.relu(first + params["c"][None, :, None, None])
    second = jax.lax.conv_general_dilated(hidden, params["b"], (2, 2), [(1, 1), (1, 1)])
    logits = jax.nn.relu(second).reshape(x.shape[0], -1) @ params["d"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def cnn(steps: int) -> tuple[Arrays, Any]:
    params = {
        "a": normal(0, (8, 3, 3, 3), "float32", 0.2),
        "b": normal(1, (12, 8, 3, 3), "float32", 0.1),
        "c": normal(2, (8,), "float32", 0.1),
        "d": normal(3, (12 * 4 * 4, 5), "float32", 0.1),
    }
    return params, (normal(4, (steps, 4, 3, 8, 8), "float32"), integers(5, (steps, 4), 5))


def _convolved(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """NCHW and OIHW with padding 1, by patches."""
    padded = np.pad(x.transpose(0, 2, 3, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = im2col(padded, (3, 3), (stride, stride), (1, 1))
    return np.einsum("bhwijc,ocij->bohw", patches, kernel)


def cnn_divisors(params: Arrays, x: np.ndarray, order: int) -> Arrays:
    first = _convolved(x, params["a"], 1) + params["c"][None, :, None, None]
    hidden = np.maximum(first, 0)
    flat = np.maximum(_convolved(hidden, params["b"], 2), 0).reshape(len(x), -1)
    return {
        "a": channel_divisors(x, order)[None, :, None, None],
        "b": channel_divisors(hidden, order)[None, :, None, None],
        "d": dense_divisor(flat, order),
    }


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    ("momentum", "nesterov", "weight_decay"),
    [(0.9, False, 5e-4), (0.9, True, 0.0), (0.5, True, 1e-3), (0.0, False, 0.0)],
)
@pytest.mark.parametrize(
    ("loss", "model", "divisors", "learning_rate"),
    [
        (mlp_loss, lambda: mlp("float32", 12), mlp_divisors, 0.05),
        (cnn_loss, lambda: cnn(12), cnn_divisors, 0.02),
    ],
    ids=["mlp", "cnn"],
)
def test_released_is_the_authors_code(
    loss, model, divisors, learning_rate, order, momentum, nesterov, weight_decay
):
    params, batches = model()
    setting = {
        "learning_rate": learning_rate, "order": order, "momentum": momentum,
        "weight_decay": weight_decay, "nesterov": nesterov,
    }  # fmt: skip
    grad_fn = insgd.value_and_grad(loss, structure=insgd.Released(order=order))
    actual = train(insgd.released(**setting), grad_fn, params, batches)
    assert_close(actual, released_loop(loss, divisors, params, batches, setting), 1e-5)


def test_released_does_not_depend_on_the_order_of_a_convolutions_axes():
    params, (x, y) = cnn(3)
    grads = {}
    for order, turned in (("NCHW", x), ("NHWC", x.transpose(0, 1, 3, 4, 2))):
        grad_fn = insgd.value_and_grad(
            lambda params, x, y, order=order: cnn_loss(params, x, y, order),
            structure=insgd.Released(),
        )
        grads[order] = train(insgd.released(0.02), grad_fn, params, (turned, y))
    assert_close(grads["NCHW"], grads["NHWC"], 1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_released_takes_a_hundredfold_step_where_a_channel_is_constant(order):
    """The published code's behavior: the logarithm of zero is floored at 0.01."""
    x = jnp.stack([jnp.ones((2, 4, 4)), normal(0, (2, 4, 4), "float64")], axis=1)
    params = {"w": normal(1, (3, 2, 1, 1), "float64")}

    def loss(params, x):
        return jnp.sum(jax.lax.conv_general_dilated(x, params["w"], (1, 1), "VALID"))

    _, grads, stats = insgd.value_and_grad(loss, structure=insgd.Released(order))(params, x)
    tx = insgd.released(1.0, order, momentum=0.0)
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=stats)
    np.testing.assert_allclose(updates["w"][:, 0], -100 * grads["w"][:, 0], rtol=1e-5)


def test_released_counts_a_lookup_as_a_dense_layer_on_one_hot_rows():
    params, tokens = {"table": normal(0, (7, 4), "float64")}, jnp.asarray([0, 3, 3, 6])

    def by_lookup(params, tokens):
        return jnp.sum(jnp.sin(params["table"][tokens]))

    def by_product(params, tokens):
        return jnp.sum(jnp.sin(jax.nn.one_hot(tokens, 7) @ params["table"]))

    stats = [
        insgd.value_and_grad(loss, structure=insgd.Released(1))(params, tokens)[2]["table"]
        for loss in (by_lookup, by_product)
    ]
    np.testing.assert_allclose(stats[0].mean(), stats[1].mean(), rtol=1e-10)
