"""Sole layers: finds the parameters that are used by one layer and by nothing else.

Their whole gradient is that layer's.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from insgd_optax import compat
from insgd_optax.capture.primitives import RESHAPING
from insgd_optax.capture.program import Program
from insgd_optax.capture.tracing import Traced
from insgd_optax.compat import JaxprEqn

# These move or cast entries, so a gradient that flows back keeps its norm.
MOVING = RESHAPING | {"convert_element_type", "copy", "copy_p", "rev", "sharding_constraint"}
MOVING |= {"transpose"}
# The count of a use outside of a layer, or of several uses.
SEVERAL = 2


def leaves_of_one_layer(traced: Traced) -> set[int]:
    """The numbers of the leaves that reach one layer and nothing else, possibly moved or cast.

    A leaf that a loop takes apart by iteration counts as having one layer.
    """
    parameters = {leaf.number for leaf in traced.leaves}
    inputs = zip(traced.program.closed.jaxpr.invars, traced.numbers, strict=True)
    followed = {variable: number for variable, number in inputs if number in parameters}
    uses: Counter[int] = Counter()
    _count(traced.program, followed, uses)
    return {leaf for leaf, number in uses.items() if number == 1}


def _count(program: Program, inputs: Mapping[Any, int], uses: Counter[int]) -> None:
    """Counts the uses of leaves in a program, from the input variables that are leaves."""
    leaf_of = dict(inputs)
    for number, equation in enumerate(program.closed.jaxpr.eqns):
        meant = {
            place: leaf_of[atom]
            for place, atom in enumerate(equation.invars)
            if not compat.is_literal(atom) and atom in leaf_of
        }
        if not meant or not equation.outvars:  # without results: a print or a check
            continue
        use, inner = program.uses.get(number), program.inner.get(number, [])
        into = _inner_places(equation) if len(inner) == 1 else range(0)
        entering = {inner[0].closed.jaxpr.invars[n]: meant[n] for n in into if n in meant}
        if entering:
            _count(inner[0], entering, uses)
        for place, leaf in meant.items():
            if _moves(equation):
                leaf_of[equation.outvars[0]] = leaf
            elif place not in into:
                uses[leaf] += 1 if use and place == use.layer.weight else SEVERAL
    for atom in program.closed.jaxpr.outvars:
        if not compat.is_literal(atom) and atom in leaf_of:
            uses[leaf_of[atom]] += SEVERAL


def _inner_places(equation: JaxprEqn) -> range:
    """The operands that an inner program receives once, or as one slice per iteration."""
    name, operands = equation.primitive.name, len(equation.invars)
    if name == "scan":
        return range(sum(compat.scan_sizes(equation)), operands)
    return range(operands if compat.is_call(equation) and name not in compat.CUSTOM_RULE else 0)


def _moves(equation: JaxprEqn) -> bool:
    """Whether the result holds every entry exactly once."""
    before, after = equation.invars[0], equation.outvars[0]
    return (
        equation.primitive.name in MOVING
        and math.prod(compat.shape_of(before)) == math.prod(compat.shape_of(after))
        and all(jnp.issubdtype(compat.dtype_of(atom), jnp.floating) for atom in (before, after))
    )
