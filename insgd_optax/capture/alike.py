"""Runs equations and observes layers. Identical ones are traced and differentiated once.

``jax.value_and_grad`` traces a loss quickly because every function of ``jax.numpy`` is a ``jit``.
JAX caches its derivative, so twelve equal blocks need only one. A traced program has lost these
``jit`` boundaries, and JAX would differentiate each equation anew. So the equations between two
layers are wrapped in a ``jit`` again. Identical stretches share one:

    block 1:  [mul, add, max]  dot  [add, exp, div]  dot
    block 2:  [mul, add, max]  dot  [add, exp, div]  dot      nothing here is derived again

The ``jit`` is inlined into the program being traced, so the compiled code stays the same. Under
``vmap`` or ``grad`` without ``jit`` no program is being traced. The equations then run one by one,
as in JAX.
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

KEPT = 4096  # more than the distinct stretches of a large network


def evaluate_all(
    program: Program, places: Sequence[int], values: dict[Any, Any], is_staged: bool
) -> None:
    """Runs some of a program's equations and adds their results to the values of its variables."""
    jaxpr = program.closed.jaxpr
    surroundings = functools.partial(_surroundings, program, is_staged)
    for shared, together in itertools.groupby(places, surroundings):
        equations = [jaxpr.eqns[place] for place in together]
        run = _evaluate_shared if shared else compat.evaluate_all
        values |= run(jaxpr, equations, values)


def _surroundings(program: Program, is_staged: bool, place: int) -> tuple[Any, ...]:
    """The key of an equation. Neighbors with equal keys run together.

    Those with an empty key share no ``jit``. The key of a layer contains its place, so a layer runs
    alone. Its operands are rarely alike.
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
    """A hashable form that is equal for identical stretches. Variables are numbered."""
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
    """A form of a parameter that compares as strictly as JAX does.

    It separates 1 from True and 0.0 from -0.0.
    """
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
    """The statistics that each structure keeps of the input of an equation's layer.

    Call it in the context of the equation. `jit` tells contexts apart by itself.
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
    """The first function with this form, compiled; None if the form is not hashable."""
    try:
        return _kept(_Formed(form, function))
    except TypeError:
        return None


@dataclasses.dataclass(frozen=True)
class _Formed:
    """A function that equals all others of the same form."""

    form: tuple[Any, ...]
    function: Callable[..., Any] = dataclasses.field(compare=False)


@functools.lru_cache(KEPT)
def _kept(formed: _Formed) -> Callable[..., Any]:
    return jax.jit(formed.function, inline=compat.EARLY)


def _is_code(value: Any) -> bool:
    """Whether a parameter is a program or a function, or contains one.

    JAX caches the derivatives of programs itself. Neither should be kept alive here.
    """
    if isinstance(value, tuple | list):
        return any(map(_is_code, value))
    return isinstance(value, Jaxpr | ClosedJaxpr) or callable(value)
