"""A convolution is a linear layer on patches: T22."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import insgd_optax as insgd
from theory.check import Check, Kind
from theory.filters import heavy_tailed, nlms, normal

STRIDE, PADDING, WINDOW = 2, 1, 3

Images = Float[Array, "batch channels height width"]


def convolved(params: Any, images: Images) -> Array:
    """The layer by JAX's own convolution. Shape (batch, outputs, positions)."""
    borders = ((PADDING, PADDING), (PADDING, PADDING))
    result = jax.lax.conv_general_dilated(images, params["w"], (STRIDE, STRIDE), borders)
    return result.reshape(*result.shape[:2], -1)


@jax.jit
def patches(images: Images) -> Float[Array, "batch positions inputs"]:
    """Every window of every image as one row, sliced out one by one."""
    borders = ((0, 0), (0, 0), (PADDING, PADDING), (PADDING, PADDING))
    padded = jnp.pad(images, borders)
    starts = range(0, padded.shape[2] - WINDOW + 1, STRIDE)
    rows = [
        padded[:, :, top : top + WINDOW, left : left + WINDOW].reshape(images.shape[0], -1)
        for top in starts
        for left in starts
    ]
    return jnp.stack(rows, axis=1)


def dense(params: Any, rows: Array) -> Array:
    """The same layer as a matrix product. Shape (batch, outputs, positions)."""
    matrix = params["w"].reshape(params["w"].shape[0], -1).T
    return jnp.swapaxes(rows @ matrix, 1, 2)


@functools.partial(jax.jit, static_argnums=0)
def captured_step(predict: Callable[..., Array], params: Any, *batch: Array) -> tuple[Any, Array]:
    """The moments of the layer's input, and the update of normalized LMS with μ = 1."""

    def loss_fn(params: Any, inputs: Array, targets: Array) -> Array:
        return jnp.mean((predict(params, inputs) - targets) ** 2) / 2

    grad_fn = insgd.value_and_grad(loss_fn, structure=insgd.Scalar())
    _, grads, input_stats = grad_fn(params, *batch)
    tx: Any = nlms(1.0)
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=input_stats)
    return input_stats["w"], updates["w"]


@jax.jit
def growths(step_size: Array, divided_by: Array, starts: Array, images: Images) -> Array:
    """Growth of ``‖w̃‖²`` in one noise-free step, for every image.

    The loss is the sum of ``e² / 2`` over positions, divided by ``divided_by``.
    """

    def growth(start: Array, image: Array) -> Array:
        def loss_fn(params: Any, images: Images) -> Array:
            return jnp.sum(convolved(params, images) ** 2) / 2 / divided_by

        params = {"w": start}
        grad_fn = insgd.value_and_grad(loss_fn, structure=insgd.Scalar())
        _, grads, input_stats = grad_fn(params, image[None])
        tx: Any = nlms(step_size)
        updates, _ = tx.update(grads, tx.init(params), params, input_stats=input_stats)
        return jnp.sum((start + updates["w"]) ** 2) / jnp.sum(start**2)

    return jax.vmap(growth)(starts, images)


def worst_growth(step_size: float, divided_by: int, images: Images) -> float:
    """The largest growth over images. Each starts from the error on which it acts most."""
    rows = np.asarray(patches(images))
    second_moments = np.swapaxes(rows, 1, 2) @ rows
    strongest = jnp.asarray(np.linalg.eigh(second_moments)[1][:, :, -1])
    starts = strongest.reshape(len(rows), 1, images.shape[1], WINDOW, WINDOW)
    numbers = jnp.asarray(step_size), jnp.asarray(float(divided_by))
    return float(jnp.max(growths(*numbers, starts, images)))


def t22() -> list[Check]:
    """T22. A convolution is a linear layer on patches, and their summed power keeps μ < 2 safe.

    Let x_l be the n patches of one example. For any vector a, (a·x_l)² ≤ ‖a‖²‖x_l‖², so

        Σ_l x_l x_lᵀ ≤ (Σ_l ‖x_l‖²) I

    A loss that sums over positions has the gradient -Σ_l e_l x_l. It needs the summed patch power
    as its divisor. Averaging both over positions changes nothing. So a loss that averages,
    divided by the mean patch power, cannot lengthen w̃ for μ ≤ 2. A loss that sums, divided by
    the mean, is n times too fast. An image with a single bright pixel that only one window sees
    attains equality above and shows both.

    Source: derived here.
    """
    images, weights = heavy_tailed(30, 4, 2, 8, 7), normal(31, 3, 2, WINDOW, WINDOW)
    params, rows = {"w": weights}, patches(images)
    targets = normal(32, 4, 3, rows.shape[1])
    by_convolution, update = captured_step(convolved, params, images, targets)
    by_rows, expected = captured_step(dense, params, rows, targets)
    power = float(by_convolution.row_power(by_convolution.mean())[0, 0, 0])
    by_hand = float(jnp.mean(jnp.sum(rows**2, axis=2)))
    count, off = float(by_rows.count[0]), float(jnp.max(jnp.abs(update - expected)))
    n, heavy = rows.shape[1], heavy_tailed(33, 50, 2, 8, 7)
    pixel, numbers = jnp.zeros_like(heavy).at[:, 0, 0, 0].set(1.0), by_convolution.count
    steps: dict[str, tuple[float, Kind]] = {
        "heavy-tailed images, mean loss, μ = 1.99": (worst_growth(1.99, n, heavy), "at most"),
        "one pixel, mean loss, μ = 1.99": (worst_growth(1.99, n, pixel), "at most"),
        "one pixel, mean loss, μ = 2.01": (worst_growth(2.01, n, pixel), "at least"),
        "one pixel, summed loss, μ = 1.99": (worst_growth(1.99, 1, pixel), "at least"),
        "one pixel, summed loss, μ = 1.99 / n": (worst_growth(1.99 / n, 1, pixel), "at most"),
    }
    return [
        Check("rows, as a convolution", float(4 * n), float(numbers[0])),
        Check("rows, as a dense layer", float(4 * n), count),
        Check("mean patch power over that of explicit patches", 1.0, power / by_hand, 1e-12),
        Check("largest difference of the updates", 0.0, off, 1e-10),
        *(Check(f"growth, {name}", 1.0, value, 0.0, kind) for name, (value, kind) in steps.items()),
    ]
