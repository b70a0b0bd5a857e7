"""Dataflow: follows parameters and data through a traced program and finds its layers.

No pattern is matched. Whatever happens to a weight before it meets the data (casts, reshapes,
masks, weight norm, merged adapters) only changes its origin, and so is transparent.
"""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

from insgd_optax import compat
from insgd_optax.capture.layers import Layer, RowInput, find_layer
from insgd_optax.capture.origin import (
    Origin,
    join_alternatives,
    join_entrywise,
    join_mixed,
)
from insgd_optax.capture.primitives import ENTRYWISE, PASSING_ON, RESHAPING
from insgd_optax.capture.reach import Reach
from insgd_optax.capture.why_not import BIAS, Reasons, chosen_leaves, held_leaves, note_why_not
from insgd_optax.compat import ClosedJaxpr, JaxprEqn

UNREACHED = (Reach(),)


@dataclasses.dataclass(frozen=True, eq=False)
class Use:
    """A layer at its place in a program, and the leaves that its weight is made from.

    Attributes:
      layer: the layer.
      weight: where its weight comes from.
      rows: how many rows each of its matrices is applied to, in all runs of the loops around it.
      times: how often these run it.
    """

    layer: Layer
    weight: Origin
    rows: int
    times: int

    def look(self, operands: Sequence[Any], seed: Any = 0) -> RowInput:
        """What the layer sees, from all operands of its equation and a seed for drawn rows."""
        return self.layer.look(*(operands[place] for place in self.layer.input), seed=seed)


@dataclasses.dataclass
class Program:
    """A traced program with what was found in it.

    Attributes:
      closed: the program with its constants.
      reach: the variables that a derivative of the loss flows back through. A layer or a reason
        counts only there.
      depth: how many scans it stands in.
      times: how often they run it.
      outputs: origins of its results.
      uses: the layer at an equation, by the equation's place.
      origins: of every variable that depends on parameters or data.
      nested: the programs of an equation, by the equation's place.
      inner: those of equations that hold layers or effects.
      why_not: for a leaf (by number), why an equation that uses it is no layer.
    """

    closed: ClosedJaxpr
    reach: Reach
    depth: int
    times: int
    outputs: list[Origin] = dataclasses.field(default_factory=list)
    uses: dict[int, Use] = dataclasses.field(default_factory=dict)
    origins: dict[Any, Origin] = dataclasses.field(default_factory=dict)
    nested: dict[int, list["Program"]] = dataclasses.field(default_factory=dict)
    inner: dict[int, list["Program"]] = dataclasses.field(default_factory=dict)
    why_not: Reasons = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def readers(self) -> collections.Counter[Any]:
        """How many equations read each variable."""
        return collections.Counter(
            atom
            for equation in self.closed.jaxpr.eqns
            for atom in {atom for atom in equation.invars if not compat.is_literal(atom)}
        )

    @property
    def has_layers(self) -> bool:
        return bool(self.uses or self.inner)

    def origin(self, atom: Any) -> Origin:
        if compat.is_literal(atom):
            return Origin(given=bool(compat.shape_of(atom)))
        return self.origins.get(atom, Origin())

    def all_uses(self) -> list[Use]:
        """The layers of this program and of those within it."""
        inside = [use for programs in self.inner.values() for p in programs for use in p.all_uses()]
        return [*self.uses.values(), *inside]

    def uses_with_own_rule(self) -> list[Use]:
        """The layers inside functions that bring a derivative rule of their own."""
        found = []
        for place, programs in self.inner.items():
            name = self.closed.jaxpr.eqns[place].primitive.name
            for program in programs:
                own = name in compat.CUSTOM_RULE
                found += program.all_uses() if own else program.uses_with_own_rule()
        return found

    def all_reasons(self) -> Reasons:
        """``why_not`` of this program and of those within it."""
        reasons = {leaf: list(texts) for leaf, texts in self.why_not.items()}
        for program in itertools.chain.from_iterable(self.nested.values()):
            for leaf, texts in program.all_reasons().items():
                reasons.setdefault(leaf, []).extend(texts)
        return reasons


def analyze(
    closed: ClosedJaxpr, inputs: Sequence[Origin], reach: Reach, depth: int = 0, times: int = 1
) -> Program:
    """Follows origins from a program's inputs to its results and notes the layers on the way."""
    program, jaxpr = Program(closed, reach, depth, times), closed.jaxpr
    program.origins.update((constant, Origin(given=True)) for constant in jaxpr.constvars)
    program.origins.update(zip(jaxpr.invars, inputs, strict=True))
    for place, equation in enumerate(jaxpr.eqns):
        operands = [program.origin(atom) for atom in equation.invars]
        if not all(origin.is_constant for origin in operands):
            results = _follow(program, place, equation, operands)
            program.origins.update(zip(equation.outvars, results, strict=True))
    program.outputs = [program.origin(atom) for atom in jaxpr.outvars]
    return program


def _follow(
    program: Program, place: int, equation: JaxprEqn, operands: list[Origin]
) -> list[Origin]:
    """Origins of an equation's results."""
    inside = program.reach.inside(place)
    if equation.primitive.name == "scan":
        inner = [_analyze_scan(equation, operands, program, *inside or UNREACHED)]
        outputs = inner[0].outputs
    elif equation.primitive.name == "cond":
        branches = [compat.as_closed(branch) for branch in equation.params["branches"]]
        inner = [
            analyze(branch, operands[1:], reach, program.depth, program.times)
            for branch, reach in zip(branches, inside or UNREACHED * len(branches), strict=True)
        ]
        outputs = _branch_outputs(operands[0], inner)
    elif compat.is_call(equation):
        called, (reach,) = compat.called_program(equation), inside or UNREACHED
        inner = [analyze(called, operands, reach, program.depth, program.times)]
        outputs = inner[0].outputs
    else:
        return _follow_simple(program, place, equation, operands)
    program.nested[place] = inner
    if any(each.has_layers for each in inner) or _has_bare_effects(equation):
        program.inner[place] = inner
    return outputs


def _has_bare_effects(equation: JaxprEqn) -> bool:
    """Whether it prints, calls back or checks, where a silent run can leave that out."""
    return bool(equation.effects) and equation.primitive.name not in compat.CUSTOM_RULE


def _analyze_scan(
    equation: JaxprEqn, operands: list[Origin], outer: Program, reach: Reach
) -> Program:
    """The body of a scan, where a carry is whatever it can be in any iteration."""
    body, depth = compat.as_closed(equation.params["jaxpr"]), outer.depth
    times = outer.times * equation.params["length"]
    constants, carries = compat.scan_sizes(equation)
    start = constants + carries
    stacked = [origin.enter_loop(depth) for origin in operands[start:]]
    initial = carry = operands[constants:start]
    while True:
        inputs = [*operands[:constants], *carry, *stacked]
        program = analyze(body, inputs, reach, depth + 1, times)
        after = program.outputs[:carries]
        joined = [join_alternatives(pair) for pair in zip(carry, after, strict=True)]
        if joined == carry:
            break
        carry = joined
    for first, ever in zip(initial, carry, strict=True):  # a learned initial state
        for leaf in first.leaves if ever.data and outer.reach.has_results_of(equation) else ():
            program.why_not.setdefault(leaf, []).append(BIAS)
    # A result that the loop stacks is no longer a leaf's entries in their order.
    results = [join_mixed([origin]) for origin in program.outputs[carries:]]
    program.outputs = [*carry, *results]
    return program


def _branch_outputs(index: Origin, branches: list[Program]) -> list[Origin]:
    """Results of a conditional: from any of its branches, and from what chooses the branch."""
    alternatives = zip(*(branch.outputs for branch in branches), strict=True)
    chosen = join_mixed([index])
    return [join_entrywise([join_alternatives(each), chosen]) for each in alternatives]


def _follow_simple(
    program: Program, place: int, equation: JaxprEqn, operands: list[Origin]
) -> list[Origin]:
    """Origins of the results of an equation that runs no program we can follow."""
    if not equation.outvars:  # a print, a callback or a check computes nothing
        return []
    within_reach = program.reach.has_results_of(equation)
    layer = find_layer(equation, operands) if within_reach else None
    if layer is not None:
        outputs = math.prod(compat.shape_of(equation.outvars[0]))
        rows = program.times * outputs // max(1, layer.groups * layer.outputs)
        program.uses[place] = Use(layer, operands[layer.weight], rows, program.times)
    elif within_reach:
        note_why_not(program.why_not, equation, operands, join_mixed(operands).data)
    if equation.primitive.name in PASSING_ON:
        return operands
    result = _result(equation, operands)
    if layer is not None and layer.is_choice:
        result = dataclasses.replace(result, held=chosen_leaves(operands[layer.weight]))
    if not program.reach.passes_on(equation):
        result = result.without_derivative()
    return [result] * len(equation.outvars)


def _result(equation: JaxprEqn, operands: list[Origin]) -> Origin:
    """Origin of an equation's result: where entries only move, the views move with them."""
    name, params = equation.primitive.name, equation.params
    shape = compat.shape_of(equation.outvars[0])
    shapes = [compat.shape_of(atom) for atom in equation.invars]
    if name in ENTRYWISE:
        in_place = zip(operands, shapes, strict=True)
        result = join_entrywise(o if own == shape else join_mixed([o]) for o, own in in_place)
        return dataclasses.replace(result, held=held_leaves(equation, operands))
    if name == "transpose":
        return operands[0].then(("transpose", tuple(params["permutation"])))
    if name == "rev":
        return operands[0].then(("reverse", tuple(params["dimensions"])))
    if name in RESHAPING:
        if math.prod(shape) != math.prod(shapes[0]):
            return operands[0].spread()
        turned = params.get("dimensions") if name == "reshape" else None
        source = operands[0].then(("transpose", tuple(turned))) if turned else operands[0]
        return source.then(("reshape", shape))
    return dataclasses.replace(join_mixed(operands), held=held_leaves(equation, operands))
