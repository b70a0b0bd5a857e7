"""Following: how an equation moves the entries of a variable with known positions."""

import jax.numpy as jnp

from insgd_optax import compat
from insgd_optax.capture.moved import Moved
from insgd_optax.capture.primitives import RESHAPING
from insgd_optax.capture.program import Program
from insgd_optax.capture.results import static_cuts
from insgd_optax.compat import JaxprEqn

CASTS = frozenset(
    {"convert_element_type", "copy", "copy_p", "name", "reduce_precision", "sharding_constraint"}
)


def moved_results(
    program: Program, equation: JaxprEqn, operand: Moved | None
) -> list[Moved | None]:
    """The results of an equation that only moves or casts the entries of its first operand.

    A leaf may also be sliced. The list is empty for any other equation.
    """
    if operand is None:
        return []
    if (result := _moved(equation, operand)) is not None:
        return [result]
    return _parts(program, equation, operand) if isinstance(operand.source, int) else []


def _parts(program: Program, equation: JaxprEqn, operand: Moved) -> list[Moved | None]:
    cuts = static_cuts(program, equation) or []
    parts = [operand.sliced(cut) for cut in cuts]
    shapes = [compat.shape_of(result) for result in equation.outvars]
    return [part and part.reshaped(shape) for part, shape in zip(parts, shapes, strict=False)]


def _moved(equation: JaxprEqn, operand: Moved) -> Moved | None:
    name, params, result = equation.primitive.name, equation.params, equation.outvars[0]
    if name in CASTS:
        floating = jnp.issubdtype(compat.dtype_of(result), jnp.inexact)
        return operand if floating else None
    if name == "transpose":
        return operand.transposed(params["permutation"])
    if name == "broadcast_in_dim":
        places = [int(place) for place in params["broadcast_dimensions"]]  # NumPy ints under vmap
        return operand.broadcast(compat.shape_of(result), places)
    if name in RESHAPING:
        turned = params.get("dimensions") if name == "reshape" else None
        source = operand.transposed(turned) if turned else operand
        return source.reshaped(compat.shape_of(result))
    return None
