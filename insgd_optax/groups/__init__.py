"""Groups of examples, such as classes: their history, and factors computed from it."""

from insgd_optax.groups.class_head import scale_by_class_frequency
from insgd_optax.groups.counting import GroupSums, group_sums
from insgd_optax.groups.history import GroupHistory, group_history, track_groups
from insgd_optax.groups.losses import (
    balanced_softmax_cross_entropy,
    output_gradient_norm,
    softmax_gradient_norm,
)
from insgd_optax.groups.similarity import Prototypes, similarity_groups, track_prototypes
from insgd_optax.groups.weights import effective_number_weights, example_weights, log_prior

__all__ = [
    "GroupHistory",
    "GroupSums",
    "Prototypes",
    "balanced_softmax_cross_entropy",
    "effective_number_weights",
    "example_weights",
    "group_history",
    "group_sums",
    "log_prior",
    "output_gradient_norm",
    "scale_by_class_frequency",
    "similarity_groups",
    "softmax_gradient_norm",
    "track_groups",
    "track_prototypes",
]
