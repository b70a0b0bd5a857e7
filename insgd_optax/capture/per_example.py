"""Per-example normalization: every row of a weight's gradient divided by that row's own norm."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from insgd_optax.capture.layers import Layer
from insgd_optax.structures import check_is_static, check_order


@dataclasses.dataclass(frozen=True)
class PerExample:
    r"""Divides the gradient of every row by :math:`\varepsilon + \lVert x \rVert_p^q`.

    .. math::
      G = \sum_r \frac{x_r g_r^\top}{\varepsilon + \lVert x_r \rVert_p^q}

    ``PerExample()`` is the project page's division by the norm; ``PerExample(exponent=2)`` is
    normalized LMS for every row by itself. A row is what the weight is contracted with: an
    example of a dense layer, a token of a sequence, a patch of a convolution. A row of zeros has
    no gradient, whatever ``eps``. To further differentiation the norms are constants.

    >>> scale = PerExample(exponent=2, eps=1.0).scale(jnp.array([3.0, 8.0]))   # of ‖x‖²
    >>> [round(float(s), 6) for s in scale]                                    # 1 / 4 and 1 / 9
    [0.25, 0.111111]

    Attributes:
      exponent: q; 0 divides by :math:`1 + \varepsilon` only.
      eps: :math:`\varepsilon`, in the unit of the norm to the power q.
      order: p, 1 or 2.

    Raises:
      ValueError: if a number is negative or the order another one.
      TypeError: if one is an array.
    """

    exponent: int | float = 1
    eps: int | float = 1e-8
    order: int = 2

    def __post_init__(self) -> None:
        check_order(self.order)
        for name in ("exponent", "eps"):
            check_is_static(name, getattr(self, name))
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, and is {getattr(self, name)}.")

    def scale(self, row_sums: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
        """What a row's cotangent is multiplied with, from its ``‖x‖ₚᵖ``."""
        present = row_sums > 0
        norm = jnp.where(present, row_sums, 1) ** (self.exponent / self.order)
        return jnp.where(present, 1 / (self.eps + norm), 0)


def with_scaled_rows(
    operation: Callable[[Sequence[Any]], list[Any]], layer: Layer, rows: PerExample
) -> Callable[[Sequence[Any]], list[Any]]:
    """A layer's operation, with another gradient for its weight and for nothing else.

    The weight's gradient is linear in the cotangent and every row of the cotangent belongs to
    one row of the input, so the rows are scaled before they are summed.
    """

    def apply(weight: Any, others: list[Any]) -> Any:
        (result,) = operation([*others[: layer.weight], weight, *others[layer.weight :]])
        return result

    run = jax.custom_vjp(apply)

    def forward(weight: Any, others: list[Any]) -> tuple[Any, Any]:
        return apply(weight, others), (weight, others)

    def backward(residuals: Any, cotangent: Any) -> tuple[Any, Any]:
        weight, others = residuals
        _, pull_others = jax.vjp(lambda others: apply(weight, others), others)
        _, pull_weight = jax.vjp(lambda weight: apply(weight, others), weight)
        operands = [*others[: layer.weight], weight, *others[layer.weight :]]
        row_sums = layer.look(*(operands[place] for place in layer.input)).row_sums(rows.order)
        return *pull_weight(_scaled(cotangent, rows.scale(row_sums))), *pull_others(cotangent)

    run.defvjp(forward, backward)

    def with_scaled(operands: Sequence[Any]) -> list[Any]:
        others = [*operands]
        return [run(others.pop(layer.weight), others)]

    return with_scaled


def _scaled(cotangent: Array, scale: Float[Array, "..."]) -> Array:
    dtype = np.promote_types(cotangent.dtype, scale.dtype)
    scaled = cotangent.astype(dtype) * scale.astype(dtype)
    if cotangent.dtype == jnp.float16:  # a small norm would take it past the largest number
        largest = float(jnp.finfo(jnp.float16).max)
        clipped = jnp.clip(scaled, -largest, largest)
        # Infinity is what dynamic loss scaling looks for, and stays.
        scaled = jnp.where(jnp.isfinite(cotangent), clipped, scaled)
    return scaled.astype(cotangent.dtype)
