"""Runs equations and looks at layers, those that are alike traced and differentiated once.

``jax.value_and_grad`` of a loss is quick to trace because every function of ``jax.numpy`` is a
``jit``, whose derivative JAX keeps: of a network with twelve equal blocks it derives one. A traced
program has lost these, and each of its equations would be derived anew. So the equations between
two layers are put into a ``jit`` again, one for all such stretches that are alike:

    block 1:  [mul, add, max]  dot  [add, exp, div]  dot
    block 2:  [mul, add, max]  dot  [add, exp, div]  dot      nothing here is derived again

It is inlined, so what is compiled stays the same.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.core import Tracer

from insgd_optax import compat
from insgd_optax.capture.layers import Layer
from insgd_optax.capture.program import Program
from insgd_optax.compat import ClosedJaxpr, Jaxpr, JaxprEqn
from insgd_optax.structures import Structure, Sums

KEPT = 4096  # more kinds of stretches than a large network has


def evaluate_all(
    program: Program, places: Sequence[int], values: Mapping[Any, Any]
) -> dict[Any, Any]:
    """What some of a program's equations make of these values, by variable."""
    equations = program.closed.jaxpr.eqns
    if not any(isinstance(value, Tracer) for value in values.values()):
        chosen = [equations[place] for place in places]
        return compat.evaluate_all(program.closed.jaxpr, chosen, values)
    known, made = dict(values), {}
    for shared, together in itertools.groupby(places, functools.partial(_surroundings, program)):
        stretch = [equations[place] for place in together]
        run = _evaluate_shared if shared else compat.evaluate_all
        results = run(program.closed.jaxpr, stretch, known)
        known |= results
        made |= results
    return made


def _surroundings(program: Program, place: int) -> tuple[Any, ...]:
    """What the equations of a stretch have in common; nothing for one that is not shared."""
    equation = program.closed.jaxpr.eqns[place]
    if equation.effects or any(map(_is_code, equation.params.values())):
        return ()
    layer = place if place in program.uses else None
    return layer, compat.line_of(equation), equation.source_info.name_stack, equation.ctx


def _evaluate_shared(
    program: Jaxpr, equations: Sequence[JaxprEqn], values: Mapping[Any, Any]
) -> dict[Any, Any]:
    form, inputs = _form(equations)
    outputs = [variable for equation in equations for variable in equation.outvars]
    alone = [compat.without_place(equation) for equation in equations]
    try:
        run = _shared(_Part(form, compat.part_of(program, alone, inputs, outputs)))
    except TypeError:  # a parameter that has no hash
        return compat.evaluate_all(program, equations, values)
    with compat.place_of(equations[0]):
        results = run(*(values[variable] for variable in inputs))
    return dict(zip(outputs, results, strict=True))


def _form(equations: Sequence[JaxprEqn]) -> tuple[tuple[Any, ...], list[Any]]:
    """What equations that are alike have in common, and the variables that they start from.

    A variable stands for its number: the order in which it is first met.
    """
    numbers: dict[Any, int] = {}
    form: list[Any] = [equations[0].ctx]
    made = {variable for equation in equations for variable in equation.outvars}
    for equation in equations:
        reads = [
            compat.literal(atom)
            if compat.is_literal(atom)
            else numbers.setdefault(atom, len(numbers))
            for atom in equation.invars
        ]
        writes = [numbers.setdefault(variable, len(numbers)) for variable in equation.outvars]
        parameters = tuple(equation.params.items())
        form.append((equation.primitive, parameters, tuple(reads), tuple(writes)))
    return tuple(form), [variable for variable in numbers if variable not in made]


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of a program, equal to those of the same form."""

    form: tuple[Any, ...]
    program: ClosedJaxpr = dataclasses.field(compare=False)


@functools.lru_cache(KEPT)
def _shared(part: _Part) -> Callable[..., Sequence[Any]]:
    return jax.jit(compat.jaxpr_as_fun(part.program), inline=compat.EARLY)


def observe(
    layer: Layer,
    equation: JaxprEqn,
    operands: Sequence[Any],
    seed: Any,
    structures: tuple[Structure, ...],
) -> list[Sums]:
    """What each structure keeps of the input of an equation's layer."""
    shapes = tuple(compat.shape_of(atom) for atom in (*equation.invars, *equation.outvars))
    dtypes = tuple(compat.dtype_of(atom) for atom in equation.outvars)
    parameters = tuple(equation.params.items())
    kind = equation.primitive, parameters, shapes, dtypes, layer.weight, layer.input
    seen = [operands[place] for place in layer.input]
    try:
        run = _observation(_LayerOf(kind, layer), structures)
    except TypeError:  # a parameter that has no hash
        return _observe(layer, structures, seen, seed)
    return run(seen, seed)


@dataclasses.dataclass(frozen=True)
class _LayerOf:
    """A layer, equal to those of all equations of a kind."""

    kind: tuple[Any, ...]
    layer: Layer = dataclasses.field(compare=False)


@functools.lru_cache(KEPT)
def _observation(of: _LayerOf, structures: tuple[Structure, ...]) -> Callable[..., list[Sums]]:
    return jax.jit(functools.partial(_observe, of.layer, structures), inline=compat.EARLY)


def _observe(
    layer: Layer, structures: tuple[Structure, ...], seen: Sequence[Any], seed: Any
) -> list[Sums]:
    row_input = layer.look(*jax.lax.stop_gradient(seen), seed=seed)
    return [structure.observe(row_input) for structure in structures]


def _is_code(value: Any) -> bool:
    """Whether a parameter is a program or a function, or holds some.

    JAX keeps the derivatives of programs itself; neither should be kept alive here.
    """
    if isinstance(value, tuple | list):
        return any(map(_is_code, value))
    return isinstance(value, Jaxpr | ClosedJaxpr) or callable(value)
