"""The names by which the capture knows equations, against those that this JAX traces to.

A JAX that renames one fails here by that name, before layers silently go missing.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend.core import Primitive, primitives

from insgd_optax import compat
from insgd_optax.capture.primitives import ENTRYWISE, RESHAPING

X, IMAGES, KERNEL = jnp.ones((4, 4)), jnp.ones((1, 5, 5, 4)), jnp.ones((3, 3, 4, 2))


@jax.custom_jvp
def _own_tangent(x: Any) -> Any:
    return jnp.tanh(x)


@jax.custom_vjp
def _own_cotangent(x: Any) -> Any:
    return jnp.tanh(x)


_own_tangent.defjvp(lambda primals, tangents: (_own_tangent(*primals), tangents[0]))
_own_cotangent.defvjp(lambda x: (_own_cotangent(x), None), lambda _, g: (g,))
AXES = ("NHWC", "HWIO", "NHWC")
CONVOLUTION = "window_strides padding lhs_dilation rhs_dilation dimension_numbers"
CONVOLUTION += " feature_group_count batch_group_count"


def _scanned(x: Any) -> Any:
    return lax.scan(lambda c, row: (c + row, row), x[0], x)


# An equation to trace, the names it may have, and the parameters that are read from it.
EQUATIONS: dict[str, tuple[Callable[[], Any], frozenset[str] | set[str], str]] = {
    "jit": (lambda: jax.jit(jnp.cos)(X), compat.JIT, "jaxpr name in_shardings"),
    "remat": (lambda: jax.checkpoint(jnp.cos)(X), compat.REMAT, "jaxpr prevent_cse policy"),
    "custom_jvp": (lambda: _own_tangent(X), compat.CUSTOM_RULE, "call_jaxpr"),
    "custom_vjp": (lambda: _own_cotangent(X), compat.CUSTOM_RULE, "call_jaxpr"),
    "scan": (lambda: _scanned(X), {"scan"}, "jaxpr length reverse unroll"),
    "cond": (lambda: lax.cond(X[0, 0] > 0, jnp.sin, jnp.cos, X), {"cond"}, "branches"),
    "dot": (lambda: lax.dot(X, X), {"dot_general"}, "dimension_numbers"),
    "convolution": (
        lambda: lax.conv_general_dilated(IMAGES, KERNEL, (1, 1), "SAME", dimension_numbers=AXES),
        {"conv_general_dilated"},
        CONVOLUTION,
    ),
    "gather": (lambda: X.at[jnp.arange(2)].get(), {"gather"}, "dimension_numbers slice_sizes mode"),
    "ragged": (
        lambda: lax.ragged_dot(X, X[None], jnp.array([4])),
        {"ragged_dot_general"},
        "ragged_dot_dimension_numbers group_offset",
    ),
    "slice": (lambda: lax.dynamic_slice(X, (0, 1), (1, 4)), {"dynamic_slice"}, "slice_sizes"),
    "transpose": (lambda: lax.transpose(X, (1, 0)), {"transpose"}, "permutation"),
    "reversal": (lambda: lax.rev(X, (0,)), {"rev"}, "dimensions"),
    "reshape": (lambda: lax.reshape(X, (16,), (1, 0)), {"reshape"}, "dimensions"),
    "barrier": (lambda: lax.optimization_barrier(X), {"optimization_barrier"}, ""),
}


def _equations(jaxpr: Any) -> Iterator[Any]:
    """The equations of a program, also those inside others."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def _traced(of: Callable[[], Any], names: frozenset[str] | set[str]) -> Any:
    equations = list(_equations(jax.make_jaxpr(of)().jaxpr))
    found = [equation for equation in equations if equation.primitive.name in names]
    assert found, f"none of {sorted(names)} in {[each.primitive.name for each in equations]}"
    return found[0]


@pytest.mark.parametrize("kind", EQUATIONS)
def test_an_equation_has_one_of_the_names_and_all_the_parameters_that_are_read(kind: str):
    of, names, parameters = EQUATIONS[kind]
    equation = _traced(of, names)
    missing = set(parameters.split()) - equation.params.keys()
    assert not missing, f"{kind} has {sorted(equation.params)}, not {sorted(missing)}"


def test_the_operands_of_a_scan_are_counted_by_kind():
    def shifted(x: Any) -> Any:
        turn = lambda carry, row: ((carry[0] + x.sum(), carry[1] * row), row)  # noqa: E731
        return lax.scan(turn, (x[0], x[1]), x)

    equation = _traced(lambda: jax.jit(shifted)(X), {"scan"})
    constants, carries = compat.scan_sizes(equation)
    assert carries == 2
    assert len(equation.invars) == constants + carries + 1


# Traced to these by some versions only: what they are called by others is among the names too.
OF_SOME_VERSIONS = {"copy_p", "expand_dims", "name"}


def test_every_entrywise_or_reshaping_primitive_exists():
    known = {each.name for each in vars(primitives).values() if isinstance(each, Primitive)}
    assert known >= (ENTRYWISE | RESHAPING) - OF_SOME_VERSIONS


def test_a_program_can_be_taken_apart_and_put_together():
    """What `evaluate` relies on: an equation runs alone, also where its program has constants."""
    closed = jax.make_jaxpr(lambda x: jnp.sin(x) * jnp.arange(4.0)[None] + x)(X)
    jaxpr = compat.as_closed(closed.jaxpr).jaxpr
    sine = next(equation for equation in jaxpr.eqns if equation.primitive.name == "sin")
    (result,) = compat.evaluate(jaxpr, sine, [X])
    assert jnp.array_equal(result, jnp.sin(X))
