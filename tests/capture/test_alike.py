"""Stretches of equations that are alike are derived once, and only those."""

import functools
import gc
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


@pytest.mark.parametrize("fills", [(0.0, -0.0), (1, 1.0, True, np.int8(1))], ids=["sign", "type"])
def test_parameters_that_are_equal_but_not_the_same_are_told_apart(fills):
    def loss_fn(w: Any, x: Any, fill: Any) -> Any:
        hidden = x @ w
        apart = jax.lax.stop_gradient(hidden)
        return hidden.sum(), jax.ffi.ffi_call("none", apart)(apart, fill=fill)  # is never run

    x = jnp.ones((4, 4))
    for fill in fills:
        loss = functools.partial(loss_fn, fill=fill)
        program = jax.make_jaxpr(insgd.value_and_grad(loss, has_aux=True))(x, x)
        assert f"('fill', {fill!r})" in str(program)


def test_layers_of_different_widths_pass_the_checks_of_jax():
    def loss_fn(params: Any, x: Any) -> Any:
        for kernel in params:
            x = jnp.tanh(x @ kernel)
        return jnp.sum(x)

    params, x = [jnp.ones((4, 5)), jnp.ones((5, 6))], jnp.ones((3, 4))
    with jax.enable_checks(True):
        loss, _, _ = jax.jit(insgd.value_and_grad(loss_fn))(params, x)
    np.testing.assert_allclose(loss, loss_fn(params, x))


def test_an_array_in_a_program_is_freed_with_the_loss():
    def arrays() -> int:
        gc.collect()
        return sum(array.nbytes for array in jax.live_arrays() if array.shape == (3, 1001))

    def loss_fn(w: Any, x: Any, constant: Any) -> Any:
        return jnp.sum(jnp.tanh((x @ w)[:, :1] + constant))

    config = "jax_use_simplified_jaxpr_constants"
    before = getattr(jax.config, config)
    jax.config.update(config, True)
    try:
        for number in range(3):
            constant = jnp.full((3, 1001), float(number))
            loss = functools.partial(loss_fn, constant=constant)
            jax.jit(insgd.value_and_grad(loss)).trace(jnp.ones((4, 2)), jnp.ones((3, 4)))
            del constant, loss
    finally:
        jax.config.update(config, before)
        jax.clear_caches()
    assert arrays() == 0


def _log(x: Any) -> Any:
    return jnp.log(x)


def _two_calls(w: Any, x: Any) -> Any:
    hidden = x @ w
    square = hidden * hidden
    first = _log(hidden)
    second = _log(square)
    return jnp.sum(first + second)


def _stacks_of_logs(value_and_grad: Callable[..., Any]) -> list[list[int]]:
    program = jax.make_jaxpr(value_and_grad(_two_calls))(jnp.ones((4, 4)), jnp.ones((4, 4)))
    sources = [each.source_info for each in program.eqns if each.primitive.name == "log"]
    stacks = [source_info_util.summarize(source, num_frames=2) for source in sources]
    return [[int(line.split(":")[1]) for line in stack.splitlines()] for stack in stacks]


def test_an_equation_keeps_the_calls_that_led_to_its_line():
    expected = _stacks_of_logs(jax.value_and_grad)
    assert len(set(map(tuple, expected))) == 2
    assert _stacks_of_logs(insgd.value_and_grad) == expected


@pytest.mark.parametrize("transform", [jax.vmap, lambda f: lambda *args: jax.jvp(f, args, args)])
def test_under_a_transformation_without_jit_every_number_is_that_of_jax(transform, getkey):
    def loss_fn(w: Any, x: Any) -> Any:
        halves = (x @ w).astype(jnp.bfloat16)
        return jnp.sum(jnp.square(jnp.tanh(halves * 3 + 1).astype(jnp.float32)))

    args = [jax.random.normal(getkey(), (3, 6, 6), jnp.float32) for _ in range(2)]
    expected = transform(jax.value_and_grad(loss_fn))(*args)
    actual = transform(lambda *args: insgd.value_and_grad(loss_fn)(*args)[:2])(*args)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_a_trace_takes_at_most_fourteen_tenths_of_the_calls_of_jax():
    command = [sys.executable, "-m", traced_calls.__name__]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    ours, theirs = map(int, ended.stdout.split())
    assert ours <= 1.4 * theirs
