"""A leaf that data meets by sums, products of entries and choices alone is a bias or a gain."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import insgd_optax as insgd
from insgd_optax.capture.why_not import BIAS, NO_DATA
from zoo.case import mean_square, normal

X = normal(0, (6, 8), "float32")
W = normal(1, (8, 8), "float32")


def heads(p: Any, x: Any) -> Any:
    return (x @ p["w"]).reshape(-1, 2, 4)


def batch_norm(p: Any, h: Any) -> Any:
    centered = h - h.mean(0, keepdims=True)
    return centered * (p["leaf"] * jax.lax.rsqrt(h.var(0, keepdims=True) + 1e-5))


def with_penalty(p: Any, x: Any) -> Any:
    return mean_square(heads(p, x) + p["leaf"]) + sum(jnp.sum(leaf**2) for leaf in p.values())


def centered(p: Any, x: Any) -> Any:
    return heads(p, x) + (p["leaf"] - p["leaf"].mean(0, keepdims=True))


def in_slices(p: Any, x: Any) -> Any:
    first, second = p["leaf"][:1], p["leaf"][1:]
    return heads(p, x)[:, :1] * first + heads(p, x)[:, 1:] * second


def read_at_fixed_places(p: Any, x: Any) -> Any:
    return heads(p, x) + p["leaf"][jnp.array([1, 0])]


def of_low_rank(p: Any, x: Any) -> Any:
    return heads(p, x) + p["leaf"][:, :1] @ p["leaf"][:1, :]


# A function of a leaf of shape (2, 4) or (1, 8) and a batch.
USES: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "added": (lambda p, x: heads(p, x) + p["leaf"], (2, 4)),
    "added, with a penalty in the loss": (with_penalty, (2, 4)),
    "a divisor by its norm": (lambda p, x: heads(p, x) / jnp.linalg.norm(p["leaf"]), (2, 4)),
    "centered": (centered, (2, 4)),
    "in slices": (in_slices, (2, 4)),
    "read at fixed places": (read_at_fixed_places, (2, 4)),
    "a product of its parts": (of_low_rank, (2, 4)),
    "a gain merged with data": (lambda p, x: batch_norm(p, x @ p["w"]), (1, 8)),
    "chosen by where": (lambda p, x: jnp.where(x > 0, x, p["leaf"]) @ p["w"], (1, 8)),
    "a maximum": (lambda p, x: jnp.maximum(x @ p["w"], p["leaf"]), (1, 8)),
    "a power": (lambda p, x: jnp.abs(x @ p["w"]) ** p["leaf"], (1, 8)),
    "a bound": (lambda p, x: jnp.clip(x @ p["w"], -p["leaf"], p["leaf"]), (1, 8)),
    "written over a row": (lambda p, x: x.at[:1].set(p["leaf"]) @ p["w"], (1, 8)),
    "a row before the others": (lambda p, x: jnp.concatenate([p["leaf"], x]) @ p["w"], (1, 8)),
    "added where shapes agree": (lambda p, x: x @ p["w"] + p["leaf"], (6, 8)),
    "multiplied where shapes agree": (lambda p, x: jnp.tanh(x @ p["w"]) * p["leaf"], (6, 8)),
    "an einsum": (lambda p, x: jnp.einsum("bhi,hi->bhi", heads(p, x), p["leaf"]), (2, 4)),
    "an outer product": (
        lambda p, x: jnp.einsum("b,hi->bhi", (x @ p["w"])[:, 0], p["leaf"]),
        (2, 4),
    ),
    "an initial state": (
        lambda p, x: jax.lax.scan(lambda h, r: (jnp.tanh(h + r @ p["w"]), None), p["leaf"], x)[0],
        (1, 8),
    ),
}


@pytest.mark.parametrize("use", USES)
def test_it_is_no_missed_matrix_however_many_axes_it_has(use: str):
    function, shape = USES[use]
    params = {"leaf": normal(2, shape, "float32"), "w": W}
    with jax.numpy_rank_promotion("allow"):
        _, _, stats = jax.jit(insgd.value_and_grad(lambda p, x: mean_square(function(p, x))))(
            params, X
        )
        rows = insgd.explain(lambda p, x: mean_square(function(p, x)), params, X).rows
    assert stats["leaf"] is None
    assert rows[0].note == BIAS or rows[0].note == "bias of 'w'"


@pytest.mark.parametrize("equation", ["bi,i->bi", "bi,i->ib", "bij,ij->bij", "bij,j->bij"])
def test_a_product_that_contracts_nothing_is_a_multiplication(equation: str):
    of_x, of_gain = equation.split("->")[0].split(",")
    x, gain = normal(0, (5, 4, 3)[: len(of_x)], "float32"), normal(1, (4, 3), "float32")
    gain = gain if of_gain == "ij" else gain[0] if of_gain == "j" else gain[:, 0]

    def loss(params, x):
        product = jnp.einsum(equation, x, params["gain"])
        return mean_square(product.reshape(20, -1) @ params["w"])

    params = {"gain": gain, "w": jnp.ones((x.size // 20, 2), jnp.float32)}
    _, _, stats = insgd.value_and_grad(loss)(params, x)
    assert stats["gain"] is None
    assert stats["w"] is not None


def test_a_depthwise_convolution_with_a_window_of_one_is_a_gain():
    def loss(params, x):
        axes = ("NHWC", "HWIO", "NHWC")
        scaled = jax.lax.conv_general_dilated(
            x, params["gain"], (1, 1), "SAME", dimension_numbers=axes, feature_group_count=3
        )
        return mean_square(scaled.reshape(2, -1) @ params["w"])

    params = {"gain": jnp.ones((1, 1, 1, 3), "float32"), "w": jnp.ones((48, 2), "float32")}
    _, _, stats = insgd.value_and_grad(loss)(params, normal(0, (2, 4, 4, 3), "float32"))
    assert stats["gain"] is None


def test_a_layer_with_one_input_is_still_a_layer():
    _, _, stats = insgd.value_and_grad(lambda p, x: mean_square(x @ p["w"]))(
        {"w": jnp.ones((1, 4), jnp.float32)}, X[:, :1]
    )
    assert stats["w"] is not None
    assert stats["w"].layout.matrices == (1, 1, 4)


def test_a_leaf_of_penalties_alone_is_no_missed_matrix():
    def loss(params, x):
        return mean_square(x @ params["w"]) + jnp.sum(params["leaf"] ** 2)

    params = {"leaf": jnp.ones((3, 4), jnp.float32), "w": W}
    _, _, stats = insgd.value_and_grad(loss)(params, X)
    assert stats["leaf"] is None
    assert insgd.explain(loss, params, X).rows[0].note == NO_DATA


# A loss of a matrix "leaf" of shape (8, 8), and what its error says.
MISSED: dict[str, tuple[Callable[..., Any], str]] = {
    "masked by an argument": (
        lambda p, x, m: x @ (p["leaf"] * m),
        "argument 2 of the loss by `mul`",
    ),
    "chosen by an argument": (
        lambda p, x, m: x @ jnp.where(m > 0, p["leaf"], 0),
        "argument 2 of the loss by `select_n`",
    ),
    "cast and moved on the way": (
        lambda p, x, m: x @ jnp.tanh(p["leaf"] - m).T.reshape(8, 8),
        "argument 2 of the loss by `sub`",
    ),
    "a kernel masked by an argument": (
        lambda p, x, m: jnp.convolve(x[0], p["leaf"][0] * m[0]),
        "argument 2 of the loss by `mul`",
    ),
    "a table masked by an argument": (
        lambda p, x, m: (p["leaf"] * m)[jnp.argmax(x, -1)],
        "argument 2 of the loss by `mul`",
    ),
    "applied to a constant": (
        lambda p, x, m: x + X @ p["leaf"],
        "to an array that is not batch data",
    ),
}


def taps(x: Any) -> Any:
    return jnp.stack([x[k : k + 3] for k in range(4)], 1)


def test_products_of_taps_that_are_summed_are_an_error_that_names_an_einsum():
    def loss(params, x):
        return mean_square(jnp.sum(taps(x) * params["leaf"][None], axis=1))

    def as_einsum(params, x):
        return mean_square(jnp.einsum("btc,tc->bc", taps(x), params["leaf"]))

    params = {"leaf": normal(2, (4, 8), "float32"), "w": W}
    with pytest.raises(ValueError) as error:
        insgd.value_and_grad(lambda p, x: loss(p, x) + mean_square(x @ p["w"]))(params, X)
    assert "einsum" in str(error.value)
    _, _, stats = insgd.value_and_grad(as_einsum)(params, X)
    assert stats["leaf"] is not None
    assert stats["leaf"].layout.matrices == (8, 4, 1)


def test_a_gain_that_is_averaged_or_normalized_afterwards_is_still_a_gain():
    def loss(params, x):
        scaled = heads(params, x) * params["leaf"][None]
        centered = scaled - scaled.mean(axis=-1, keepdims=True)
        return mean_square(centered) + jnp.mean(heads(params, x) * params["leaf"][None])

    params = {"leaf": normal(2, (2, 4), "float32"), "w": W}
    _, _, stats = insgd.value_and_grad(loss)(params, X)
    assert stats["leaf"] is None


@pytest.mark.parametrize("use", MISSED)
def test_a_matrix_that_data_hides_is_missed_and_the_error_names_what_hides_it(use: str):
    function, said = MISSED[use]

    def loss(params, x, mask):
        return mean_square(function(params, x, mask)) + mean_square(x @ params["w"])

    with pytest.raises(ValueError) as error:
        insgd.value_and_grad(loss)({"leaf": W, "w": W}, X, jnp.ones((8, 8), jnp.float32))
    assert "'leaf' of shape (8, 8): " in str(error.value)
    assert said in str(error.value)
    assert "batch_argnums" in str(error.value)
