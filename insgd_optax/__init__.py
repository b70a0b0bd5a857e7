"""Input Normalized SGD for JAX: optimizers that look at a layer's input."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from insgd_optax.capture.gradient_norms import example_gradient_norms
from insgd_optax.capture.gradients import value_and_grad
from insgd_optax.capture.per_example import PerExample
from insgd_optax.capture.tap import tap
from insgd_optax.explain import Explanation, LeafReport, explain
from insgd_optax.groups import (
    GroupHistory,
    GroupSums,
    Prototypes,
    balanced_softmax_cross_entropy,
    effective_number_weights,
    example_weights,
    group_history,
    group_sums,
    log_prior,
    output_gradient_norm,
    scale_by_class_frequency,
    similarity_groups,
    softmax_gradient_norm,
    track_groups,
    track_prototypes,
)
from insgd_optax.inspection import inspect
from insgd_optax.layout import Layout
from insgd_optax.moments import Bias, InputMoments
from insgd_optax.optimizers import insgd
from insgd_optax.presets import nlms, paper, project_page, released
from insgd_optax.structures import (
    Diagonal,
    Frequency,
    Full,
    LowRank,
    MeanVariance,
    MeanVariances,
    PerLayer,
    Released,
    Scalar,
    Structure,
)
from insgd_optax.transforms.bind import bind
from insgd_optax.transforms.fingerprints import check_state
from insgd_optax.transforms.layer_history import LayerHistory, layer_histories
from insgd_optax.transforms.multi_steps import MultiStepsState, multi_steps
from insgd_optax.transforms.normalizer import ScaleByInputState
from insgd_optax.transforms.relative_step import relative_step
from insgd_optax.transforms.scale_by_input import scale_by_input
from insgd_optax.transforms.scale_by_insgd import ScaleByInsgdState, scale_by_insgd
from insgd_optax.transforms.white_inputs import OnWhiteInputsState, on_white_inputs

if TYPE_CHECKING:
    from insgd_optax import equinox as equinox
    from insgd_optax import linen as linen
    from insgd_optax import nnx as nnx
    from insgd_optax import plots as plots

__version__ = "0.1.0"

__all__ = [
    "Bias",
    "Diagonal",
    "Explanation",
    "Frequency",
    "Full",
    "GroupHistory",
    "GroupSums",
    "InputMoments",
    "LayerHistory",
    "Layout",
    "LeafReport",
    "LowRank",
    "MeanVariance",
    "MeanVariances",
    "MultiStepsState",
    "OnWhiteInputsState",
    "PerExample",
    "PerLayer",
    "Prototypes",
    "Released",
    "Scalar",
    "ScaleByInputState",
    "ScaleByInsgdState",
    "Structure",
    "balanced_softmax_cross_entropy",
    "bind",
    "check_state",
    "effective_number_weights",
    "example_gradient_norms",
    "example_weights",
    "explain",
    "group_history",
    "group_sums",
    "insgd",
    "inspect",
    "layer_histories",
    "log_prior",
    "multi_steps",
    "nlms",
    "on_white_inputs",
    "output_gradient_norm",
    "paper",
    "project_page",
    "relative_step",
    "released",
    "scale_by_class_frequency",
    "scale_by_input",
    "scale_by_insgd",
    "similarity_groups",
    "softmax_gradient_norm",
    "tap",
    "track_groups",
    "track_prototypes",
    "value_and_grad",
]


def __getattr__(name: str) -> ModuleType:
    # Each of these imports a package that not everyone has.
    if name in ("equinox", "linen", "nnx", "plots"):
        return importlib.import_module(f"insgd_optax.{name}")
    raise AttributeError(f"module 'insgd_optax' has no attribute {name!r}")
