"""Weights inside a while_loop, where a loss can have one: away from the derivative."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import insgd_optax as insgd
from battery.problems import assert_close
from zoo.case import inputs, mean_square, normal

X = inputs(0, (6, 4), "float64")
PARAMS = {
    "state": normal(1, (5, 5), "float64", size=0.2),
    "inputs": normal(2, (4, 5), "float64"),
    "bias": normal(3, (5,), "float64"),
    "head": normal(4, (5, 2), "float64"),
}
STEPS = 7
Loop = Callable[[Callable[[Any], Any], Any], Any]


def cell(params: Any, x: Any, state: Any) -> Any:
    return jnp.tanh(state @ params["state"] + x @ params["inputs"] + params["bias"][None])


def start(x: Any) -> Any:
    return x[:, :1] * jnp.ones((1, 5), x.dtype)


def static(step: Callable[[Any], Any], state: Any) -> Any:
    return jax.lax.fori_loop(0, STEPS, lambda _, state: step(state), state)


def dynamic(step: Callable[[Any], Any], state: Any) -> Any:
    # A bound that is known only when the program runs, and so a while_loop.
    bound = jnp.where(jnp.sum(state) > jnp.inf, 0, STEPS)
    return jax.lax.fori_loop(0, bound, lambda _, state: step(state), state)


def until(step: Callable[[Any], Any], state: Any) -> Any:
    def body(carry: Any) -> Any:
        number, _, state = carry
        return number + 1, state, step(state)

    return jax.lax.while_loop(lambda carry: carry[0] < STEPS, body, (0, state, state))[2]


def unrolled(step: Callable[[Any], Any], state: Any) -> Any:
    for _ in range(STEPS):
        state = step(state)
    return state


def with_own_rule(loop: Loop) -> Callable[..., Any]:
    """A fixed point with an implicit derivative, from a few terms of its series."""

    @jax.custom_vjp
    def fixed_point(params: Any, x: Any) -> Any:
        return loop(functools.partial(cell, params, x), start(x))

    def forward(params: Any, x: Any) -> Any:
        found = fixed_point(params, x)
        return found, (params, x, found)

    def backward(kept: Any, cotangent: Any) -> Any:
        _, pull = jax.vjp(cell, *kept)
        total = jax.lax.fori_loop(0, 5, lambda _, sum: cotangent + pull(sum)[2], cotangent)
        return pull(total)[:2]

    fixed_point.defvjp(forward, backward)
    return lambda params, x: mean_square(fixed_point(params, x) @ params["head"])


def stopped(loop: Loop) -> Callable[..., Any]:
    def loss(params: Any, x: Any) -> Any:
        found = loop(functools.partial(cell, params, x), start(x))
        return mean_square(cell(params, x, jax.lax.stop_gradient(found)) @ params["head"])

    return loss


def in_the_derivative(loop: Loop) -> Callable[..., Any]:
    def loss(params: Any, x: Any) -> Any:
        return mean_square(loop(functools.partial(cell, params, x), start(x)) @ params["head"])

    return loss


def assert_same_statistics(found: Any, expected: Any) -> None:
    for path, moments in expected.items():
        if moments is None:
            assert found[path] is None
            continue
        np.testing.assert_allclose(found[path].sums, moments.sums, rtol=1e-10)
        np.testing.assert_array_equal(found[path].count, moments.count)


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("loop", [until, dynamic])
@pytest.mark.parametrize("place", [with_own_rule, stopped])
def test_a_while_loop_sees_what_an_unrolled_loop_sees(place: Any, loop: Loop, jitted: bool):
    found, expected = (
        (jax.jit(each) if jitted else each)(PARAMS, X)
        for each in (insgd.value_and_grad(place(kind)) for kind in (loop, unrolled))
    )
    assert_close(found[:2], expected[:2], rtol=1e-10)
    assert_close(found[1], jax.grad(place(loop))(PARAMS, X), rtol=1e-10)
    assert_same_statistics(found[2], expected[2])


def test_a_loop_behind_stop_gradient_is_not_pooled():
    _, _, stats = jax.jit(insgd.value_and_grad(stopped(until)))(PARAMS, X)
    assert all(float(moments.count[0]) == 6 for moments in stats.values() if moments is not None)


def test_every_iteration_of_a_loop_with_a_rule_of_its_own_counts():
    _, _, stats = jax.jit(insgd.value_and_grad(with_own_rule(until)))(PARAMS, X)
    moments: Any = stats["state"]
    assert float(moments.count[0]) == 6 * STEPS


def test_a_loop_of_no_iterations_counts_no_row():
    def never(step: Callable[[Any], Any], state: Any) -> Any:
        return jax.lax.while_loop(lambda state: jnp.any(state > 1), step, state)

    _, _, stats = jax.jit(insgd.value_and_grad(with_own_rule(never)))(PARAMS, X)
    moments: Any = stats["state"]
    assert float(moments.count[0]) == 0


def test_a_loop_with_a_static_bound_is_a_scan():
    found, expected = (
        jax.jit(insgd.value_and_grad(in_the_derivative(loop)))(PARAMS, X)[2]
        for loop in (static, unrolled)
    )
    assert_same_statistics(found, expected)


@pytest.mark.parametrize("loop", [until, dynamic])
def test_a_while_loop_in_the_derivative_is_the_error_that_jax_has_for_it(loop: Loop):
    grad_fn = jax.jit(insgd.value_and_grad(in_the_derivative(loop)))
    with pytest.raises(ValueError, match=r"Reverse-mode differentiation .*while_loop"):
        grad_fn(PARAMS, X)
