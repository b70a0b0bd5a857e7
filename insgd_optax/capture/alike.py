"""Runs equations and looks at layers, those that are alike traced and differentiated once.

``jax.value_and_grad`` of a loss is quick to trace because every function of ``jax.numpy`` is a
``jit``, whose derivative JAX keeps: of a network with twelve equal blocks it derives one. A traced
program has lost these, and each of its equations would be derived anew. So the equations between
two layers are put into a ``jit`` again, one for all such stretches that are alike:

    block 1:  [mul, add, max]  dot  [add, exp, div]  dot
    block 2:  [mul, add, max]  dot  [add, exp, div]  dot      nothing here is derived again

It is inlined into the program that is being traced, so what is compiled stays the same. Where there
is none, as under ``vmap`` or ``grad`` without ``jit``, equations run one by one, as in JAX.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from insgd_optax import compat
from insgd_optax.capture.layers import Layer
from insgd_optax.capture.layers.sampling import Draw
from insgd_optax.capture.program import Program
from insgd_optax.compat import ClosedJaxpr, Jaxpr, JaxprEqn
from insgd_optax.structures import Structure, Sums

KEPT = 4096  # more than the different stretches of a large network


def evaluate_all(
    program: Program, places: Sequence[int], values: dict[Any, Any], is_staged: bool
) -> None:
    """Adds to the values of a program's variables what some of its equations make of them."""
    jaxpr = program.closed.jaxpr
    surroundings = functools.partial(_surroundings, program, is_staged)
    for shared, together in itertools.groupby(places, surroundings):
        equations = [jaxpr.eqns[place] for place in together]
        run = _evaluate_shared if shared else compat.evaluate_all
        values |= run(jaxpr, equations, values)


def _surroundings(program: Program, is_staged: bool, place: int) -> tuple[Any, ...]:
    """Neighbours that have these in common are run together; empty for what is not shared.

    A layer has its own place among them, for it stands alone: what it is applied to is unlike.
    """
    equation = program.closed.jaxpr.eqns[place]
    holds_array = any(compat.is_literal(atom) and compat.shape_of(atom) for atom in equation.invars)
    holds_code = any(map(_is_code, equation.params.values()))
    if not is_staged or equation.effects or holds_array or holds_code:
        return ()
    layer = place if place in program.uses else None
    return layer, compat.stack_of(equation), equation.source_info.name_stack, equation.ctx


def _evaluate_shared(
    program: Jaxpr, equations: Sequence[JaxprEqn], values: Mapping[Any, Any]
) -> dict[Any, Any]:
    part = compat.part_of(program, list(map(compat.without_place, equations)))
    run = _shared(_form(part.jaxpr), compat.jaxpr_as_fun(part))
    if run is None:
        return compat.evaluate_all(program, equations, values)
    with compat.place_of(equations[0]):
        results = run(*(values[variable] for variable in part.jaxpr.invars))
    return dict(zip(part.jaxpr.outvars, results, strict=True))


def _form(part: Jaxpr) -> tuple[Any, ...]:
    """Equal for two stretches that are alike. A variable stands for its number in the stretch."""
    numbers: dict[Any, int] = {variable: number for number, variable in enumerate(part.invars)}
    form: list[Any] = [part.eqns[0].ctx, *(variable.aval for variable in part.invars)]
    for equation in part.eqns:
        reads = tuple(
            _literal(atom) if compat.is_literal(atom) else numbers[atom] for atom in equation.invars
        )
        writes = tuple(numbers.setdefault(result, len(numbers)) for result in equation.outvars)
        form.append((equation.primitive, _exactly(equation.params), reads, writes))
    return tuple(form)


def _literal(atom: Any) -> tuple[bytes, Any]:
    return np.asarray(atom.val).tobytes(), atom.aval


def _exactly(param: Any) -> Any:
    """A parameter, equal to those that JAX takes for the same: not 1 and True, nor 0.0 and -0.0."""
    if isinstance(param, Mapping):
        return tuple((name, _exactly(each)) for name, each in param.items())
    if isinstance(param, tuple):
        return type(param), *map(_exactly, param)
    if isinstance(param, int | float | complex | np.generic):
        return type(param), repr(param)
    return param


def observe(
    layer: Layer,
    equation: JaxprEqn,
    operands: Sequence[Any],
    draw: Draw,
    structures: tuple[Structure, ...],
) -> list[Sums]:
    """What each structure keeps of the input of an equation's layer.

    It must run where the equation's context is set, which `jit` tells apart by itself.
    """
    shapes = tuple(compat.shape_of(atom) for atom in (*equation.invars, *equation.outvars))
    dtypes = tuple(compat.dtype_of(atom) for atom in equation.outvars)
    kind = equation.primitive, _exactly(equation.params), shapes, dtypes
    form = *kind, layer.weight, layer.input, structures

    def observed(inputs: Sequence[Any], draw: Draw) -> list[Sums]:
        seen = layer.look_at(inputs, draw)
        return [structure.observe(seen) for structure in structures]

    run = _shared(form, observed) or observed
    return run([operands[place] for place in layer.input], draw)


def _shared(form: tuple[Any, ...], function: Callable[..., Any]) -> Callable[..., Any] | None:
    """The first function that came with this form, compiled; None if the form has no hash."""
    try:
        return _kept(_Formed(form, function))
    except TypeError:
        return None


@dataclasses.dataclass(frozen=True)
class _Formed:
    """A function, equal to those of the same form."""

    form: tuple[Any, ...]
    function: Callable[..., Any] = dataclasses.field(compare=False)


@functools.lru_cache(KEPT)
def _kept(formed: _Formed) -> Callable[..., Any]:
    return jax.jit(formed.function, inline=compat.EARLY)


def _is_code(value: Any) -> bool:
    """Whether a parameter is a program or a function, or holds some.

    JAX keeps the derivatives of programs itself; neither should be kept alive here.
    """
    if isinstance(value, tuple | list):
        return any(map(_is_code, value))
    return isinstance(value, Jaxpr | ClosedJaxpr) or callable(value)
