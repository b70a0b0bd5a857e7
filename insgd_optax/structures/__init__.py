"""Structures: how much of a layer's second moment is kept, with one structure per file."""

from insgd_optax.structures.base import (
    ELEMENTWISE_COST,
    EveryUpdate,
    LayerInput,
    PerFeature,
    Signals,
    Structure,
    Sums,
    check_structure,
)
from insgd_optax.structures.diagonal import Diagonal
from insgd_optax.structures.frequency import Frequency
from insgd_optax.structures.full import Full
from insgd_optax.structures.low_rank import LowRank
from insgd_optax.structures.mean_variance import MeanVariance
from insgd_optax.structures.mean_variances import MeanVariances
from insgd_optax.structures.per_layer import PerLayer
from insgd_optax.structures.released import Released
from insgd_optax.structures.scalar import Scalar

__all__ = [
    "ELEMENTWISE_COST",
    "Diagonal",
    "EveryUpdate",
    "Frequency",
    "Full",
    "LayerInput",
    "LowRank",
    "MeanVariance",
    "MeanVariances",
    "PerFeature",
    "PerLayer",
    "Released",
    "Scalar",
    "Signals",
    "Structure",
    "Sums",
    "check_structure",
]
