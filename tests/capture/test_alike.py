"""Stretches of equations that are alike are derived once, and only those."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import source_info_util

import insgd_optax as insgd
from tests.capture import traced_calls

# What is done between two layers, to the first layer's result and to the input.
BETWEEN: dict[str, Callable[[Any, Any], Any]] = {
    "one": lambda h, x: jnp.tanh(h * x - 1.0),
    "another number": lambda h, x: jnp.tanh(h * x - 2.0),
    "the other order": lambda h, x: jnp.tanh(1.0 - h * x),
    "the same twice": lambda h, x: jnp.tanh(h * h - 1.0),
    "another axis": lambda h, x: jnp.tanh(h * x - 1.0) + h.sum(axis=0, keepdims=True),
    "the axis after": lambda h, x: jnp.tanh(h * x - 1.0) + h.sum(axis=1, keepdims=True),
    "minus zero": lambda h, x: jnp.arctan2(h * h * -0.0, -1.0 - h * h),
    "zero": lambda h, x: jnp.arctan2(h * h * 0.0, -1.0 - h * h),
}


def _through(names: list[str]) -> Callable[[Any, Any], Any]:
    def loss_fn(params: Any, x: Any) -> Any:
        hidden = x
        for name, kernel in zip(names, params, strict=True):
            hidden = BETWEEN[name](hidden @ kernel, x)
        return jnp.mean(jnp.square(hidden))

    return loss_fn


@pytest.mark.parametrize("names", [list(BETWEEN), list(BETWEEN)[::-1]])
def test_stretches_that_differ_in_a_number_an_operand_or_a_parameter_are_told_apart(names, getkey):
    with jax.numpy_rank_promotion("allow"):
        loss_fn = _through(names)
        params = [jax.random.normal(getkey(), (4, 4)) for _ in names]
        x = jax.random.normal(getkey(), (4, 4))
        expected = jax.jit(jax.value_and_grad(loss_fn))(params, x)
        loss, grads, _ = jax.jit(insgd.value_and_grad(loss_fn))(params, x)
    for actual, wanted in zip([loss, *grads], [expected[0], *expected[1]], strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-12, atol=1e-15)


def _equations(jaxpr: Any) -> Iterator[tuple[str, str, str]]:
    """The name, scope and line of every equation, programs within aside."""
    for equation in jaxpr.eqns:
        line = source_info_util.summarize(equation.source_info).split(":")[1]
        yield equation.primitive.name, str(equation.source_info.name_stack), line


def test_every_equation_keeps_the_scope_and_the_line_it_was_written_in():
    loss_fn, params, x = traced_calls.blocks(3)
    expected = set(_equations(jax.make_jaxpr(jax.value_and_grad(loss_fn))(params, x).jaxpr))
    found = set(_equations(jax.make_jaxpr(insgd.value_and_grad(loss_fn))(params, x).jaxpr))
    assert {scope for _, scope, _ in expected} > {f"jvp(block_{n})" for n in range(3)}
    assert expected <= found


def test_a_trace_takes_at_most_fourteen_tenths_of_the_calls_of_jax():
    command = [sys.executable, "-m", traced_calls.__name__]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    ours, theirs = map(int, ended.stdout.split())
    assert ours <= 1.4 * theirs
