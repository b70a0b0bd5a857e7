"""Reach: the variables of a program that a derivative flows back through from its loss.

No derivative flows through ``stop_gradient``, an argmax or auxiliary results. A use of a weight in
one of these changes no gradient, so its inputs do not count.

    h = x @ w                 reached
    best = argmax(h)          not reached: integers
    target = stop_gradient(x @ w)
              └─ the product is not reached
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from insgd_optax import compat
from insgd_optax.capture.primitives import FLAT, PASSING_ON
from insgd_optax.capture.tap import is_tap
from insgd_optax.compat import Jaxpr, JaxprEqn


@dataclasses.dataclass(frozen=True)
class Reach:
    """The variables of a program that a derivative flows back through.

    Attributes:
      variables: the variables of this program.
      nested: the reach in the programs of an equation, by the equation's place.
      has_rule: whether a function around the program has a custom derivative. Then every variable
        that the results depend on counts. The rule may pass a gradient over an operation without
        one, as a straight-through estimator does over rounding.
    """

    variables: frozenset[Any] = frozenset()
    nested: Mapping[int, tuple["Reach", ...]] = dataclasses.field(default_factory=dict)
    has_rule: bool = False

    def has_results_of(self, equation: JaxprEqn) -> bool:
        return any(result in self.variables for result in equation.outvars)

    def inside(self, place: int) -> tuple["Reach", ...]:
        """The reach in the programs of an equation; empty if the equation is out of reach."""
        return self.nested.get(place, ())

    def passes_on(self, equation: JaxprEqn) -> bool:
        """Whether a derivative can flow from the equation's results to its operands."""
        if self.has_rule:
            return True
        flat = equation.primitive.name in FLAT
        inexact = any(_is_inexact(result) for result in equation.outvars)
        return is_tap(equation) or (not flat and inexact)


def reach_of_loss(jaxpr: Jaxpr) -> Reach:
    """The reach of a program whose first result is the loss.

    A function for `explain` may return something other than a scalar. Then all its results count as
    the loss.
    """
    loss = jaxpr.outvars[:1]
    is_number = bool(loss) and compat.shape_of(loss[0]) == ()
    return _reach(jaxpr, loss if is_number else jaxpr.outvars, has_rule=False)


def _reach(jaxpr: Jaxpr, results: Iterable[Any], has_rule: bool) -> Reach:
    """The reach from some of a program's results."""
    # A tap may return integers, such as the indices of a lookup.
    tapped = {result for each in jaxpr.eqns if is_tap(each) for result in each.outvars}

    def counted(atoms: Iterable[Any]) -> set[Any]:
        variables = {atom for atom in atoms if not compat.is_literal(atom)}
        return {each for each in variables if has_rule or each in tapped or _is_inexact(each)}

    found = counted(results)
    nested: dict[int, tuple[Reach, ...]] = {}
    reach = Reach(frozenset(), nested, has_rule)
    for place in reversed(range(len(jaxpr.eqns))):
        equation = jaxpr.eqns[place]
        wanted = [result in found for result in equation.outvars]
        if any(wanted) and reach.passes_on(equation):
            nested[place], operands = _through(equation, wanted, has_rule)
            found |= counted(operands)
    return dataclasses.replace(reach, variables=frozenset(found))


def _through(
    equation: JaxprEqn, wanted: Sequence[bool], has_rule: bool
) -> tuple[tuple[Reach, ...], list[Any]]:
    """The reach inside an equation, and the operands that are reached from its results."""
    name, operands = equation.primitive.name, list(equation.invars)
    if name == "scan":
        return _through_scan(equation, wanted, has_rule)
    if name == "while":
        return _through_while(equation, wanted, has_rule)
    if name == "cond":
        branches = [compat.as_closed(branch).jaxpr for branch in equation.params["branches"]]
        inside = tuple(_reach(each, _chosen(each.outvars, wanted), has_rule) for each in branches)
        used = zip(branches, inside, strict=True)
        kept = [[atom in reach.variables for atom in each.invars] for each, reach in used]
        any_branch = [any(each) for each in zip(*kept, strict=True)]
        index = operands[:1] if has_rule else []
        return inside, [*index, *_chosen(operands[1:], any_branch)]
    if is_tap(equation):
        return _through_tap(equation, has_rule)
    if compat.is_call(equation) or compat.is_shard_map(equation):
        own = name in compat.CUSTOM_RULE
        called = compat.called_program(equation).jaxpr
        inside = _reach(called, _chosen(called.outvars, wanted), has_rule or own)
        reached = [own or atom in inside.variables for atom in called.invars]
        return (inside,), _chosen(operands, reached)
    if name in PASSING_ON and len(operands) == len(wanted):
        return (), _chosen(operands, wanted)
    return (), operands


def _through_tap(equation: JaxprEqn, has_rule: bool) -> tuple[tuple[Reach, ...], list[Any]]:
    """Everything in a tap counts, although no result depends on it."""
    called = compat.called_program(equation).jaxpr
    everything = [result for each in called.eqns for result in each.outvars]
    inside = _reach(called, everything, has_rule=True)
    passed = _reach(called, called.outvars, has_rule)
    reached = [atom in passed.variables for atom in called.invars]
    return (inside,), _chosen(equation.invars, reached)


def _through_scan(
    equation: JaxprEqn, wanted: Sequence[bool], has_rule: bool
) -> tuple[tuple[Reach, ...], list[Any]]:
    """The reach of a scan. Its carries are also reached from the next iteration."""
    body = compat.as_closed(equation.params["jaxpr"]).jaxpr
    constants, carries = compat.scan_sizes(equation)
    inside, wanted, reached = _repeated(body, wanted, constants, carries, has_rule)
    # A loop without iterations returns its initial carries.
    passed = [False] * constants + wanted[:carries] + [False] * (len(reached) - constants - carries)
    either = [one or other for one, other in zip(reached, passed, strict=True)]
    return (inside,), _chosen(equation.invars, either)


def _through_while(
    equation: JaxprEqn, wanted: Sequence[bool], has_rule: bool
) -> tuple[tuple[Reach, ...], list[Any]]:
    """The reach of a while loop, which has carries but no stacked values."""
    body = compat.as_closed(equation.params["body_jaxpr"]).jaxpr
    constants = equation.params["body_nconsts"]
    inside, wanted, reached = _repeated(body, wanted, constants, len(wanted), has_rule)
    operands = equation.invars[equation.params["cond_nconsts"] :]
    return (inside,), _chosen(operands, [*reached[:constants], *wanted])


def _repeated(
    body: Jaxpr, wanted: Sequence[bool], constants: int, carries: int, has_rule: bool
) -> tuple[Reach, list[bool], list[bool]]:
    """The reach in a loop body, its wanted results and its reached operands.

    If one iteration wants a carry, the previous one must produce it.
    """
    while True:
        inside = _reach(body, _chosen(body.outvars, wanted), has_rule)
        reached = [atom in inside.variables for atom in body.invars]
        carried = reached[constants : constants + carries] + [False] * (len(wanted) - carries)
        after = [now or next for now, next in zip(wanted, carried, strict=True)]
        if after == wanted:
            return inside, after, reached
        wanted = after


def _chosen(atoms: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
    return [atom for atom, is_wanted in zip(atoms, wanted, strict=True) if is_wanted]


def _is_inexact(atom: Any) -> bool:
    dtype = compat.dtype_of(atom)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)
