"""Models in every style that people write them in, each with what its weights see, by hand."""

from zoo import (
    equinox_models,
    haiku_models,
    linen,
    nnx_models,
    plain_conv,
    plain_dense,
    plain_flow,
    plain_reuse,
)
from zoo.case import CASES, Case, Entry

FAMILIES = (
    plain_dense, plain_conv, plain_reuse, plain_flow,
    linen, nnx_models, equinox_models, haiku_models,
)  # fmt: skip

__all__ = ["CASES", "Case", "Entry", "FAMILIES"]
