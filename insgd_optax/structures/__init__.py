"""How much of a layer's second moment is kept: one structure a file."""

from insgd_optax.structures.base import Number, Structure, check_structure
from insgd_optax.structures.diagonal import Diagonal
from insgd_optax.structures.scalar import Scalar

__all__ = ["Diagonal", "Number", "Scalar", "Structure", "check_structure"]
