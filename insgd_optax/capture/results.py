"""Results: the origins of one equation's results. If entries only move, views move too."""

import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from insgd_optax import compat
from insgd_optax.capture.origin import Origin, join_entrywise, join_mixed
from insgd_optax.capture.primitives import ENTRYWISE, RESHAPING
from insgd_optax.capture.program import Program
from insgd_optax.capture.why_not import held_leaves
from insgd_optax.compat import JaxprEqn

Cut = tuple[slice, ...]

# The primitives with which JAX resolves a negative index before it takes a slice.
OF_INDICES: Mapping[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "lt": operator.lt,
    "convert_element_type": lambda number: number,
    "select_n": lambda which, *cases: cases[int(which)],
}


def results_of(program: Program, equation: JaxprEqn, operands: list[Origin]) -> list[Origin]:
    """The origins of an equation's results, from those of its operands."""
    if (only := _only_case(program, equation)) is not None:
        return [operands[only]]
    if operands[0].is_weight and not any(operand.data for operand in operands):
        cuts = static_cuts(program, equation)
        if cuts is not None:
            parts = [operands[0].sliced(cut) for cut in cuts]
            shapes = [compat.shape_of(result) for result in equation.outvars]
            return [p.then(("reshape", s)) for p, s in zip(parts, shapes, strict=True)]
    return [_result(equation, operands)] * len(equation.outvars)


def _only_case(program: Program, equation: JaxprEqn) -> int | None:
    """The operand of a selection between a variable and itself behind a ``stop_gradient``.

    A `cond` under `vmap` runs both branches. It uses such selections to route their gradients.
    """
    if equation.primitive.name != "select_n":
        return None
    cases = equation.invars[1:]
    sources = [_before_stop(program, case) for case in cases]
    kept = [n for n, case in enumerate(cases) if case is sources[n]]
    if not kept or any(source is not sources[0] for source in sources):
        return None
    return 1 + kept[0]


def _before_stop(program: Program, atom: Any) -> Any:
    """The variable behind a ``stop_gradient``. Any other variable is returned as it is."""
    maker = None if compat.is_literal(atom) else program.makers.get(atom)
    if maker is None or maker.primitive.name != "stop_gradient":
        return atom
    return maker.invars[0]


def static_cuts(program: Program, equation: JaxprEqn) -> list[Cut] | None:
    """For each result of an equation, its slice of the first operand.

    None if a result is not a slice, or if its position is only known at run time.
    """
    params = equation.params
    match equation.primitive.name:
        case "slice":
            starts, ends = params["start_indices"], params["limit_indices"]
            return [tuple(map(slice, starts, ends, params["strides"] or itertools.repeat(1)))]
        case "split":
            ends = list(itertools.accumulate(map(int, params["sizes"])))
            ranges = itertools.pairwise([0, *ends])
            return [_along(equation, slice(start, end)) for start, end in ranges]
        case "unstack":
            return [_along(equation, slice(n, n + 1)) for n in range(len(equation.outvars))]
        case "dynamic_slice":
            starts = _known(program, tuple(equation.invars[1:]))
            if starts is None:
                return None
            whole, sizes = compat.shape_of(equation.invars[0]), params["slice_sizes"]
            bounds = zip(starts, whole, sizes, strict=True)
            first = [min(max(start, 0), all - size) for start, all, size in bounds]
            return [tuple(slice(f, f + size) for f, size in zip(first, sizes, strict=True))]
    return None


def _along(equation: JaxprEqn, places: slice) -> Cut:
    """A slice along the axis of an equation and all of the other axes."""
    axis, shape = equation.params["axis"], compat.shape_of(equation.invars[0])
    return tuple(places if n == axis else slice(0, size) for n, size in enumerate(shape))


def _known(program: Program, atoms: tuple[Any, ...]) -> list[int] | None:
    """The integers that a program computes from constants only; None if any is not known."""

    def value(atom: Any) -> int | None:
        if compat.is_literal(atom):
            return int(np.asarray(atom.val)) if np.ndim(atom.val) == 0 else None
        equation = program.makers.get(atom)
        if equation is None or equation.primitive.name not in OF_INDICES:
            return None
        operands = [value(operand) for operand in equation.invars]
        known = None not in operands
        return int(OF_INDICES[equation.primitive.name](*operands)) if known else None

    values = [value(atom) for atom in atoms]
    return None if None in values else [number for number in values if number is not None]


def _result(equation: JaxprEqn, operands: list[Origin]) -> Origin:
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
