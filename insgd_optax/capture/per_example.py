"""Per-example normalization: divides each row of a weight's gradient by its input norm."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from insgd_optax.capture.layers import RowInput
from insgd_optax.capture.program import Use
from insgd_optax.capture.weight_rule import Operation, Pull, with_weight_rule
from insgd_optax.settings import check_is_static, check_order


@dataclasses.dataclass(frozen=True)
class PerExample:
    r"""Divides the gradient of every row by :math:`\varepsilon + \lVert x \rVert_p^q`.

    .. math::
      G = \sum_r \frac{x_r g_r^\top}{\varepsilon + \lVert x_r \rVert_p^q}

    ``PerExample()`` is the project page's division by the norm. ``PerExample(exponent=2)`` is
    normalized LMS on each row separately. A row is the vector that the weight is contracted with:
    an example of a dense layer, a token of a sequence, a patch of a convolution. A row of zeros has
    no gradient for any ``eps``. The norms are constants to further differentiation.

    >>> scale = PerExample(exponent=2, eps=1.0).scale(jnp.array([3.0, 8.0]))   # of ‖x‖²
    >>> [round(float(s), 6) for s in scale]                                    # 1 / 4 and 1 / 9
    [0.25, 0.111111]

    Attributes:
      exponent: q; 0 divides by :math:`1 + \varepsilon` only.
      eps: :math:`\varepsilon`, in units of the norm to the power q.
      order: p, 1 or 2.

    Raises:
      ValueError: if a number is negative, or if the order is neither 1 nor 2.
      TypeError: if a setting is not a Python number.
    """

    exponent: int | float = 1
    eps: int | float = 1e-8
    order: int = 2

    def __post_init__(self) -> None:
        check_order(self.order)
        for name in ("exponent", "eps"):
            check_is_static(name, getattr(self, name))
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}.")

    def scale(self, row_sums: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
        """The factor of a row's cotangent, from its ``‖x‖ₚᵖ``."""
        present = row_sums > 0
        norm = jnp.where(present, row_sums, 1) ** (self.exponent / self.order)
        return jnp.where(present, 1 / (self.eps + norm), 0)


def with_scaled_rows(operation: Operation, use: Use, rows: PerExample) -> Operation:
    """A layer's operation with a scaled gradient for its weight only.

    The weight's gradient is linear in the cotangent, and each row of the cotangent belongs to one
    row of the input. So the rows are scaled before they are summed.
    """

    def rule(seen: RowInput, cotangent: Array, pull: Pull) -> tuple[Array, None]:
        return pull(_scaled(cotangent, rows.scale(seen.row_sums(rows.order)))), None

    return with_weight_rule(operation, use, rule)


def _scaled(cotangent: Array, scale: Float[Array, "..."]) -> Array:
    dtype = np.promote_types(cotangent.dtype, scale.dtype)
    scaled = cotangent.astype(dtype) * scale.astype(dtype)
    if cotangent.dtype == jnp.float16:  # dividing by a small norm could overflow
        largest = float(jnp.finfo(jnp.float16).max)
        clipped = jnp.clip(scaled, -largest, largest)
        # Infinities stay, because dynamic loss scaling looks for them.
        scaled = jnp.where(jnp.isfinite(cotangent), clipped, scaled)
    return scaled.astype(cotangent.dtype)
