"""Summed products: tensor products in two steps. A leaf is multiplied with data, then summed.

``(x * w).sum(1)`` computes an einsum, and ``x[1:] * w[0] + x[:-1] * w[1]`` a convolution. Neither
is captured as a layer, but ``w`` is not a gain either.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from insgd_optax import compat
from insgd_optax.capture.moved import Moved
from insgd_optax.capture.primitives import MOVING_DATA
from insgd_optax.capture.program import Program
from insgd_optax.compat import JaxprEqn

Sources = frozenset[Any]


@dataclasses.dataclass(frozen=True)
class Product:
    """A leaf (by number), or a slice of it, that was multiplied with data.

    Attributes:
      leaf: the number of the leaf.
      data: the variables that the entries of the data come from.
    """

    leaf: int
    data: Sources


@dataclasses.dataclass(frozen=True)
class Taps:
    """A sum that contains products, each with the start of its slice of the leaf."""

    products: frozenset[tuple[Product, int]]


@dataclasses.dataclass
class Shifts:
    """The variables that the entries of a variable come from.

    A shift of data comes from the data that is shifted.
    """

    known: dict[Any, Sources] = dataclasses.field(default_factory=dict)

    def of(self, atom: Any) -> Sources:
        return frozenset() if compat.is_literal(atom) else self.known.get(atom, frozenset({atom}))

    def follow(self, program: Program, equation: JaxprEqn) -> None:
        if equation.primitive.name in MOVING_DATA:
            moved = [atom for atom in equation.invars if program.origin(atom).data]
            found = frozenset().union(*map(self.of, moved))
            self.known.update(dict.fromkeys(equation.outvars, found))

    def enter(self, inner: Program, equation: JaxprEqn) -> None:
        given = map(self.of, equation.invars)
        self.known.update(zip(inner.closed.jaxpr.invars, given, strict=True))

    def leave(self, inner: Program, equation: JaxprEqn) -> None:
        """A variable that is created inside a call is a new one in every call."""
        given = frozenset().union(*map(self.of, equation.invars))
        for atom, result in zip(inner.closed.jaxpr.outvars, equation.outvars, strict=True):
            found = self.of(atom)
            self.known[result] = found if found and found <= given else frozenset({result})


def product_with_data(
    program: Program, equation: JaxprEqn, operands: Sequence[Moved | None], shifts: Shifts
) -> Moved | None:
    """The product of a leaf and data, if only one equation reads it.

    The result of a gain has more readers. A normalization reads it and its mean.
    """
    result = equation.outvars[0]
    if equation.primitive.name != "mul" or not program.origin(result).data:
        return None
    found = [(each, each.source) for each in operands if each is not None]
    leaves = [(moved, source) for moved, source in found if isinstance(source, int)]
    if len(leaves) != 1:
        return None
    ((moved, leaf),) = leaves
    if program.readers[result] != 1:
        return None
    others = [a for a, each in zip(equation.invars, operands, strict=True) if each is not moved]
    data = frozenset().union(*map(shifts.of, others))
    return dataclasses.replace(moved, source=Product(leaf, data))


def taps_of(operands: Sequence[Moved | None]) -> Moved | None:
    """The sum of these operands, if there are products among them."""
    products: set[tuple[Product, int]] = set()
    found = [each for each in operands if each and isinstance(each.source, Product | Taps)]
    for each in found:
        if isinstance(each.source, Taps):
            products |= each.source.products
        elif isinstance(each.source, Product):
            products.add((each.source, each.offset))
    return dataclasses.replace(found[0], source=Taps(frozenset(products))) if found else None


def leaves_of_taps(taps: Moved) -> set[int]:
    """The leaves with two slices that are multiplied with shifts of the same data."""
    products = taps.source.products if isinstance(taps.source, Taps) else ()
    return {
        one.leaf
        for (one, start), (other, other_start) in itertools.combinations(products, 2)
        if one.leaf == other.leaf and start != other_start and one.data & other.data
    }


def leaf_summed_over(product: Moved, equation: JaxprEqn) -> list[int]:
    """The leaf of a product that is summed over some of the leaf's axes.

    Empty if all of these axes are summed, or any other axis.
    """
    if not isinstance(product.source, Product):
        return []
    varying = {n for n, axis in enumerate(product.axes) if any(stride for _, stride in axis)}
    summed = set(equation.params["axes"])
    return [product.source.leaf] if summed and summed < varying else []
