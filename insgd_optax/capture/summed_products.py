"""Products of tensors in two steps: a leaf is multiplied with data, and the products summed.

``(x * w).sum(1)`` computes what an einsum computes. It is not captured as a layer, and ``w`` is
not a gain.
"""

import dataclasses
from collections.abc import Sequence

from insgd_optax.capture.dataflow import Program
from insgd_optax.capture.moved import Moved
from insgd_optax.compat import JaxprEqn


@dataclasses.dataclass(frozen=True)
class Product:
    """A leaf (by number) that was multiplied with data."""

    leaf: int


def product_with_data(
    program: Program, equation: JaxprEqn, operands: Sequence[Moved | None]
) -> Moved | None:
    """The product of a leaf and data, if one equation alone reads it.

    A gain has more readers (a normalization takes its result and the mean of it).
    """
    result = equation.outvars[0]
    if equation.primitive.name != "mul" or not program.origin(result).data:
        return None
    found = [(each, each.source) for each in operands if each is not None]
    leaves = [(moved, source) for moved, source in found if isinstance(source, int)]
    if len(leaves) != 1:
        return None
    ((moved, leaf),) = leaves
    is_read_once = program.readers[result] == 1
    return dataclasses.replace(moved, source=Product(leaf)) if is_read_once else None


def leaf_summed_over(product: Moved, equation: JaxprEqn) -> list[int]:
    """The leaf of a product, if axes of it alone are summed and others of its axes are left."""
    if not isinstance(product.source, Product):
        return []
    varying = {n for n, axis in enumerate(product.axes) if any(stride for _, stride in axis)}
    summed = set(equation.params["axes"])
    return [product.source.leaf] if summed and summed < varying else []
