"""Only a use of a weight whose output reaches the loss by a derivative is looked at."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import insgd_optax as insgd
from battery.problems import assert_close
from insgd_optax.capture.why_not import NO_GRADIENT
from zoo.case import inputs, mean_square, normal

X = normal(0, (6, 4), "float32")
PARAMS = {"w": normal(1, (4, 4), "float32"), "b": jnp.ones((4,), jnp.float32)}


def layer(p: Any, x: Any) -> Any:
    return x @ p["w"] + p["b"][None]


def base(p: Any, x: Any) -> Any:
    return mean_square(jnp.tanh(layer(p, x)))


def again(p: Any, x: Any) -> Any:
    """The same layer on other inputs."""
    return layer(p, 100 * x)


def in_a_loop(p: Any, x: Any) -> Any:
    return jax.lax.scan(lambda h, _: (layer(p, h), jnp.sum(h)), 100 * x, None, length=2)[0]


def chosen(p: Any, x: Any) -> Any:
    return jax.lax.cond(x[0, 0] > 0, again, lambda p, x: x, p, x)


def assert_same(stats: Any, expected: Any) -> None:
    assert stats["w"].bias == expected["w"].bias
    assert_close(stats["w"].sums, expected["w"].sums)
    assert_close(stats["w"].count, expected["w"].count, rtol=0.0)


stop = jax.lax.stop_gradient
# What is added to the loss, of no derivative.
WITHOUT: dict[str, Callable[..., Any]] = {
    "behind stop_gradient": lambda p, x: jnp.sum(stop(again(p, x))),
    "of a stopped weight": lambda p, x: jnp.sum(again(stop(p), x)),
    "behind stop_gradient in a jit": lambda p, x: jnp.sum(jax.jit(lambda p: stop(again(p, x)))(p)),
    "behind stop_gradient in a checkpoint": lambda p, x: jnp.sum(
        jax.checkpoint(lambda p: stop(again(p, x)))(p)
    ),
    "in a loop behind stop_gradient": lambda p, x: jnp.sum(stop(in_a_loop(p, x))),
    "in a branch behind stop_gradient": lambda p, x: jnp.sum(stop(chosen(p, x))),
    "in an argmax": lambda p, x: jnp.sum(jnp.argmax(again(p, x), axis=-1)).astype(x.dtype),
    "in a comparison": lambda p, x: jnp.sum(again(p, x) > 0).astype(x.dtype),
    "in a choice": lambda p, x: jnp.sum(jnp.where(again(p, x) > 0, x, -x)),
    "rounded": lambda p, x: jnp.sum(jnp.round(again(p, x))),
    "in a sort's order": lambda p, x: jnp.sum(x[jnp.argsort(again(p, x)[:, 0])]),
    "in a stacked result of a loop": lambda p, x: (
        0 * jnp.sum(jax.lax.scan(lambda c, row: (c, jnp.sum(stop(row))), x[0], again(p, x))[1])
    ),
}


@pytest.mark.parametrize("use", WITHOUT)
def test_a_use_without_a_derivative_changes_no_statistics(use: str):
    _, grads, alone = insgd.value_and_grad(base)(PARAMS, X)
    both = insgd.value_and_grad(lambda p, x: base(p, x) + WITHOUT[use](p, x))
    _, with_use, stats = jax.jit(both)(PARAMS, X)
    assert_close(with_use["w"], grads["w"])
    assert_same(stats, alone)


def test_a_use_in_aux_changes_no_statistics():
    def with_aux(p, x):
        return base(p, x), {"metric": jnp.sum(again(p, x)), "seen": in_a_loop(p, x)}

    _, _, alone = insgd.value_and_grad(base)(PARAMS, X)
    _, _, stats = jax.jit(insgd.value_and_grad(with_aux, has_aux=True))(PARAMS, X)
    assert_same(stats, alone)


def in_a_carry(p: Any, x: Any) -> Any:
    """The product reaches the loss in the iteration after it."""

    def body(carry, _):
        _, now = carry
        return (now, layer(p, now)), None

    (before, _), _ = jax.lax.scan(body, (x, x), None, length=3)
    return before


@jax.custom_vjp
def rounded(x: Any) -> Any:
    return jnp.round(x)


rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))
# What the loss is made of, with a derivative that is easily overlooked.
WITH: dict[str, tuple[Callable[..., Any], int]] = {
    "in a carry": (in_a_carry, 18),
    "straight through a rounding": (lambda p, x: layer(p, x) + stop(jnp.round(x) - x), 6),
    "rounded by a rule": (lambda p, x: x @ rounded(p["w"]), 6),
    "rounded after by a rule": (lambda p, x: rounded(layer(p, x)), 6),
    "beside a stopped copy": (lambda p, x: x @ (p["w"] + stop(jnp.round(p["w"]) - p["w"])), 6),
    "in a branch": (chosen, 6),
    "in a loop over nothing but its carry": (lambda p, x: in_a_loop(p, x), 12),
}


@pytest.mark.parametrize("use", WITH)
def test_a_use_with_a_derivative_is_looked_at(use: str):
    function, rows = WITH[use]
    x = jnp.abs(X)
    _, grads, stats = jax.jit(insgd.value_and_grad(lambda p, x: mean_square(function(p, x))))(
        PARAMS, x
    )
    assert jnp.any(grads["w"] != 0)
    assert float(stats["w"].count[0]) == rows


def test_a_frozen_or_unused_matrix_is_no_missed_one_and_explain_says_why():
    def loss(p, x):
        return base(p, x @ stop(p["frozen"]))

    params = {**PARAMS, "frozen": PARAMS["w"], "unused": PARAMS["w"]}
    _, _, stats = insgd.value_and_grad(loss)(params, X)
    assert stats["frozen"] is None
    notes = {row.path: row.note for row in insgd.explain(loss, params, X).rows}
    assert notes["frozen"] == notes["unused"] == NO_GRADIENT


def test_explain_of_a_function_that_returns_no_loss_looks_at_all_its_results():
    report = insgd.explain(lambda p, x: {"b": layer(p, x), "a": x}, PARAMS, X)
    assert report.layouts.keys() == {"w"}


def test_a_conditional_for_every_example_hides_no_weight():
    params = {"w": normal(0, (4, 3), "float64")}
    x = inputs(1, (6, 4), "float64")

    def layer(x, w):
        return jnp.tanh(x @ w)

    def chosen(x, w):
        return jax.lax.cond(x[0] > 0, layer, lambda x, w: x[:3], x, w)

    def loss(params, x):
        return mean_square(jax.vmap(chosen, (0, None))(x, params["w"]))

    (moments,) = insgd.value_and_grad(loss, structure=insgd.Scalar())(params, x)[2].values()
    np.testing.assert_allclose(moments.mean(), np.mean(np.square(x)), rtol=1e-12)
