"""Models in every style that people write them in, each with what its weights see, by hand."""

from zoo import (
    equinox_models,
    haiku_models,
    linen_layers,
    linen_transforms,
    nnx_models,
    plain_conv,
    plain_dense,
    plain_embeddings,
    plain_flow,
    plain_loops,
    plain_reuse,
)
from zoo.case import CASES, Case, Entry

FAMILIES = (
    plain_dense,
    plain_conv,
    plain_embeddings,
    plain_reuse,
    plain_flow,
    plain_loops,
    linen_layers,
    linen_transforms,
    nnx_models,
    equinox_models,
    haiku_models,
)

__all__ = ["CASES", "FAMILIES", "Case", "Entry"]
