"""Biases: finds the leaf that is added to each layer's result, with one entry per output.

A second walk through the trace follows leaves and layer results while their entries only move. A
leaf is the bias of a weight if every layer of this weight adds it to its result. Nothing else may
use that result, or combine that leaf with data. Then ``x W + b`` is the layer ``(x, 1) [W; b]``.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from insgd_optax import compat
from insgd_optax.capture.following import moved_results
from insgd_optax.capture.moved import Moved, common_digits, layout_of_bias, strided
from insgd_optax.capture.origin import View
from insgd_optax.capture.primitives import PASSING_ON, SUMS, is_penalty
from insgd_optax.capture.program import Program, Use
from insgd_optax.capture.summed_products import (
    Shifts,
    leaf_summed_over,
    leaves_of_taps,
    product_with_data,
    taps_of,
)
from insgd_optax.capture.why_not import SUMMED, TAPS
from insgd_optax.compat import JaxprEqn
from insgd_optax.layout import Layout

Operands = list[Moved | None]


@dataclasses.dataclass(frozen=True)
class Sum:
    """A leaf (by number) that is added to a layer's result, and the position of both."""

    number: int
    leaf: Moved
    result: Moved


@dataclasses.dataclass
class Walk:
    """The layers and additions found so far.

    Attributes:
      sums: the addition that each layer's result is in.
      elsewhere: layer results and leaves with any other use.
      products_summed: leaves that are multiplied with data entry by entry and then summed, which is
        a tensor product in two steps. Each comes with the reason for the message.
      shifts: the sources of the data.
    """

    sums: dict[Any, Sum] = dataclasses.field(default_factory=dict)
    elsewhere: set[Any] = dataclasses.field(default_factory=set)
    products_summed: dict[int, str] = dataclasses.field(default_factory=dict)
    shifts: Shifts = dataclasses.field(default_factory=Shifts)

    def spend(self, operands: Sequence[Moved | None]) -> None:
        """Records layers whose results are not followed any further."""
        self.elsewhere.update(each.source for each in operands if each and _is_result(each))

    def run(self, program: Program, inputs: Operands) -> Operands:
        """Follows a program from its inputs to its results."""
        jaxpr = program.closed.jaxpr
        moved = dict(zip(jaxpr.invars, inputs, strict=True))
        for place, equation in enumerate(jaxpr.eqns):
            if not program.reach.has_results_of(equation):  # a print, a check, a metric
                continue
            operands = [None if compat.is_literal(a) else moved.get(a) for a in equation.invars]
            if place in program.nested:
                results = self._enter(program, place, equation, operands)
            else:
                results = self._pass(program, equation, operands)
            moved.update(zip(equation.outvars, results, strict=True))
            if use := program.uses.get(place):
                moved[equation.outvars[0]] = _result_of(use, equation)
        return [None if compat.is_literal(atom) else moved.get(atom) for atom in jaxpr.outvars]

    def _pass(self, program: Program, equation: JaxprEqn, operands: Operands) -> Operands:
        """The results of an equation without inner programs."""
        if equation.primitive.name in PASSING_ON:
            return operands
        self.shifts.follow(program, equation)
        if operands and (results := moved_results(program, equation, operands[0])):
            return results
        if equation.primitive.name == "reduce_sum" and operands[0] is not None:
            found = leaf_summed_over(operands[0], equation)
            self.products_summed.update(dict.fromkeys(found, SUMMED))
        if (both := _sum(equation, operands)) and both.result.source not in self.sums:
            self.sums[both.result.source] = both
        else:
            self.spend(operands)
            for atom, operand in zip(equation.invars, operands, strict=True):
                if operand or not is_penalty(equation):
                    self._meet(program, atom, equation.outvars[0])
        if equation.primitive.name in SUMS and (taps := taps_of(operands)):
            self.products_summed.update(dict.fromkeys(leaves_of_taps(taps), TAPS))
            return [taps]
        product = product_with_data(program, equation, operands, self.shifts)
        return [product] * len(equation.outvars)

    def _meet(self, program: Program, atom: Any, result: Any) -> None:
        """Records the leaves in an operand if the result contains data."""
        if program.origin(result).data:
            self.elsewhere.update(program.origin(atom).leaves)

    def _enter(
        self, program: Program, place: int, equation: JaxprEqn, operands: Operands
    ) -> Operands:
        """The results of an equation with inner programs. Only those of a call are followed."""
        inner, into = program.nested[place], operands
        if compat.is_call(equation):
            self.shifts.enter(inner[0], equation)
            results = self.run(inner[0], operands)
            self.shifts.leave(inner[0], equation)
            return results
        chosen = [*zip(equation.invars, equation.outvars, strict=False)][:1]
        if equation.primitive.name == "scan":
            constants, carries = compat.scan_sizes(equation)
            start = constants + carries
            slices = [each and each.enter_loop(program.depth) for each in operands[start:]]
            lost = [each for each, slice in zip(operands[start:], slices, strict=True) if not slice]
            self.spend([*operands[constants:start], *lost])
            into = [*operands[:constants], *[None] * carries, *slices]
            chosen = [*zip(equation.invars[constants:start], equation.outvars, strict=False)]
        elif equation.primitive.name == "while":
            start, constants = (equation.params[n] for n in ("cond_nconsts", "body_nconsts"))
            self.spend(operands)
            into = operands[start : start + constants] + [None] * len(equation.outvars)
            chosen = []
        elif compat.is_shard_map(equation):
            split, chosen = compat.mesh_axes(equation)[0], []
            self.spend(operands)
            into = [None if axes else o for axes, o in zip(split, operands, strict=True)]
        else:
            self.spend(operands[:1])
            into = operands[1:]
        for atom, result in chosen:
            self._meet(program, atom, result)
        for each in inner:
            found = self.run(each, into)
            results = zip(found, each.closed.jaxpr.outvars, equation.outvars, strict=True)
            for moved, atom, result in results:
                if result not in program.reach.variables:
                    continue
                self.spend([moved])
                if program.origin(result).data:
                    self.elsewhere.update(each.origin(atom).leaves)
        return [None] * len(equation.outvars)


def walked(program: Program, inputs: Operands) -> Walk:
    """Walks through the whole program, starting from its leaves."""
    walk = Walk()
    walk.run(program, inputs)
    return walk


def find_biases(
    program: Program,
    walk: Walk,
    layouts: Mapping[int, Layout],
    shapes: Mapping[int, tuple[int, ...]],
) -> dict[int, tuple[int, Layout]]:
    """The bias of each weight that has one, as the number of a leaf and its layout.

    Args:
      program: the whole program.
      walk: a walk through it.
      layouts: the exact layouts of weights, by leaf number.
      shapes: the shapes of all leaves.
    """
    uses = program.uses_of_leaves()
    with_bias: dict[int, set[Use]] = collections.defaultdict(set)
    for use, both in walk.sums.items():
        with_bias[both.number].add(use)
    found: dict[int, tuple[int, Layout]] = {}
    for weight, layout in layouts.items():
        added = {_bias(walk, use, weight, layout, shapes) for use in uses[weight]}
        bias = added.pop() if len(added) == 1 else None
        if bias is None or bias[0] in walk.elsewhere:
            continue
        if with_bias[bias[0]] == set(uses[weight]):
            found[weight] = bias
    owners = collections.Counter(leaf for leaf, _ in found.values())
    return {weight: bias for weight, bias in found.items() if owners[bias[0]] == 1}


def _bias(
    walk: Walk, use: Use, weight: int, layout: Layout, shapes: Mapping[int, tuple[int, ...]]
) -> tuple[int, Layout] | None:
    """The leaf that one layer adds to its result, and its layout."""
    both, view = walk.sums.get(use), use.weight.leaves[weight]
    if both is None or use in walk.elsewhere or not isinstance(view, View):
        return None
    if view.loops != tuple(depth for depth, _ in both.leaf.loops):
        return None
    lengths = view.shape[: len(view.loops)]
    inside = use.layer.groups * use.layer.outputs
    iterations = [((length, stride * inside),) for length, stride in strided(lengths)]
    of_layer = [*iterations, *both.result.axes]
    of_leaf = [*(axis for _, axis in both.leaf.loops), *both.leaf.axes]
    pairs = common_digits(of_layer, of_leaf)
    if pairs is None:
        return None
    found = layout_of_bias(pairs, shapes[both.number], layout.groups, layout.outputs)
    return found and (both.number, found)


def _is_result(moved: Moved) -> bool:
    return isinstance(moved.source, Use)


def _result_of(use: Use, equation: JaxprEqn) -> Moved | None:
    strides = use.layer.strides
    shape = compat.shape_of(equation.outvars[0])
    return None if strides is None else Moved.of_result(use, shape, strides)


def _sum(equation: JaxprEqn, operands: Operands) -> Sum | None:
    """The addition of a leaf to a layer's result, if this is one."""
    known = [each for each in operands if each is not None]
    if equation.primitive.name not in SUMS or len(known) < 2:
        return None
    shape = compat.shape_of(equation.outvars[0])
    last = range(len(shape))  # a scalar may be added without axes
    first, second = (each.broadcast(shape, last[len(shape) - len(each.axes) :]) for each in known)
    for result, leaf in ((first, second), (second, first)):
        if _is_result(result) and isinstance(leaf.source, int):
            return Sum(leaf.source, leaf, result)
    return None
