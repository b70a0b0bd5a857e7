"""How much of a layer's second moment is kept: one structure a file."""

from insgd_optax.structures.base import (
    LayerInput,
    Number,
    Signals,
    Structure,
    Sums,
    check_is_static,
    check_order,
    check_structure,
    safe_reciprocal,
)
from insgd_optax.structures.diagonal import Diagonal
from insgd_optax.structures.released import Released
from insgd_optax.structures.scalar import Scalar

__all__ = [
    "Diagonal",
    "LayerInput",
    "Number",
    "Released",
    "Scalar",
    "Signals",
    "Structure",
    "Sums",
    "check_is_static",
    "check_order",
    "check_structure",
    "safe_reciprocal",
]
