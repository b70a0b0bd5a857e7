"""Models with a weight for every row, so that a row's gradient can be made by itself."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

from zoo.case import normal


class Model(NamedTuple):
    """A loss of weights and examples, and the same loss with a weight of its own for every row.

    `of_rows(copies, x)` takes one example `x` and weights with axes for its rows in front, and
    returns that example's part of the loss and the input rows that each weight met, inputs last.
    """

    loss: Callable[..., jax.Array]
    of_rows: Callable[..., Any]
    params: dict[str, jax.Array]
    x: jax.Array
    rows: dict[str, tuple[int, ...]]


def _target(y: jax.Array) -> jax.Array:
    return jnp.sum(jnp.sin(3 * y))


def dense() -> Model:
    def loss(params: Any, x: Any) -> jax.Array:
        return _target(jnp.tanh(x @ params["a"]) @ params["b"]) / 6

    def of_rows(copies: Any, x: Any) -> Any:
        hidden = jnp.tanh(x @ copies["a"])
        return _target(hidden @ copies["b"]) / 6, {"a": x, "b": hidden}

    params = {"a": normal(0, (5, 4), "float64"), "b": normal(1, (4, 3), "float64")}
    return Model(loss, of_rows, params, normal(2, (6, 5), "float64"), {"a": (), "b": ()})


def _patches(x: jax.Array, window: int, stride: int) -> jax.Array:
    """Patches of one example (height, width, channels), by shifting and stacking."""
    places = [
        x[i : x.shape[0] - window + 1 + i : stride, j : x.shape[1] - window + 1 + j : stride]
        for i in range(window)
        for j in range(window)
    ]
    patches = jnp.stack(places, axis=2)
    return patches.reshape(*patches.shape[:2], -1)


def convolution() -> Model:
    """3x3 with padding 1 and stride 2, then 2x2 without padding."""
    numbers = ("NHWC", "HWIO", "NHWC")

    def loss(params: Any, x: Any) -> jax.Array:
        x = jax.lax.conv_general_dilated(
            x, params["a"], (2, 2), [(1, 1), (1, 1)], dimension_numbers=numbers
        )
        x = jax.lax.conv_general_dilated(
            jnp.tanh(x), params["b"], (1, 1), "VALID", dimension_numbers=numbers
        )
        return _target(x)

    def of_rows(copies: Any, x: Any) -> Any:
        first = _patches(jnp.pad(x, ((1, 1), (1, 1), (0, 0))), 3, 2)
        kernels = copies["a"].reshape(*copies["a"].shape[:2], -1, 4)
        second = _patches(jnp.tanh(jnp.einsum("hwi,hwio->hwo", first, kernels)), 2, 1)
        kernels = copies["b"].reshape(*copies["b"].shape[:2], -1, 3)
        return _target(jnp.einsum("hwi,hwio->hwo", second, kernels)), {"a": first, "b": second}

    params = {"a": normal(0, (3, 3, 2, 4), "float64"), "b": normal(1, (2, 2, 4, 3), "float64")}
    rows = {"a": (4, 4), "b": (3, 3)}
    return Model(loss, of_rows, params, normal(2, (5, 8, 8, 2), "float64"), rows)


def attention() -> Model:
    """Heads in the kernels' own axes; one example is a sequence, a row is a token."""

    def attend(q: Any, k: Any, v: Any) -> Any:
        weights = jax.nn.softmax(jnp.einsum("thk,shk->hts", q, k), axis=-1)
        return jnp.einsum("hts,shk->thk", weights, v)

    def loss(params: Any, x: Any) -> jax.Array:
        q, k, v = (jnp.einsum("btd,dhk->bthk", x, params[name]) for name in "qkv")
        return _target(jnp.einsum("bthk,hkd->btd", jax.vmap(attend)(q, k, v), params["o"]))

    def of_rows(copies: Any, x: Any) -> Any:
        q, k, v = (jnp.einsum("td,tdhk->thk", x, copies[name]) for name in "qkv")
        mixed = attend(q, k, v)
        seen = dict.fromkeys("qkv", x) | {"o": mixed.reshape(4, -1)}
        return _target(jnp.einsum("thk,thkd->td", mixed, copies["o"])), seen

    params = {name: normal(i, (6, 2, 3), "float64", 0.5) for i, name in enumerate("qkv")}
    params["o"] = normal(3, (2, 3, 6), "float64")
    rows = dict.fromkeys("qkvo", (4,))
    return Model(loss, of_rows, params, normal(4, (5, 4, 6), "float64"), rows)


def _stack(checkpoint: Callable[..., Any]) -> Model:
    def loss(params: Any, x: Any) -> jax.Array:
        body = checkpoint(lambda x, weight: (jnp.tanh(x @ weight), None))
        return _target(jax.lax.scan(body, x, params["w"])[0])

    def of_rows(copies: Any, x: Any) -> Any:
        seen = []
        for layer in range(3):
            seen.append(x)
            x = jnp.tanh(x @ copies["w"][layer])
        return _target(x), {"w": jnp.stack(seen)}

    params = {"w": normal(0, (3, 4, 4), "float64")}
    return Model(loss, of_rows, params, normal(1, (6, 4), "float64"), {"w": ()})


def scanned() -> Model:
    return _stack(lambda body: body)


def scanned_and_checkpointed() -> Model:
    return _stack(jax.checkpoint)


def grouped() -> Model:
    """A convolution of two groups over a sequence, kernel of one position."""

    def loss(params: Any, x: Any) -> jax.Array:
        return _target(
            jax.lax.conv_general_dilated(
                x, params["w"], (1,), "VALID",
                dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=2,
            )
        )  # fmt: skip

    def of_rows(copies: Any, x: Any) -> Any:
        halves, kernels = x.reshape(4, 2, 3), copies["w"].reshape(4, 3, 2, 2)
        of_outputs = jnp.repeat(halves, 2, axis=1)[:, None, None]  # (rows, 1, 1, outputs, inputs)
        return _target(jnp.einsum("tgi,tigo->tgo", halves, kernels)), {"w": of_outputs}

    params = {"w": normal(0, (1, 3, 4), "float64")}
    return Model(loss, of_rows, params, normal(1, (5, 4, 6), "float64"), {"w": (4,)})


MODELS = [dense, convolution, attention, scanned, scanned_and_checkpointed, grouped]
every_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
