"""What a structure is: a few pure functions on the arrays of one layer."""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

# A setting, or a traced one (`optax.inject_hyperparams`).
Number = float | Float[Array, ""]


@runtime_checkable
class Structure(Protocol):
    """How the second moment ``A = E[x xᵀ]`` of a layer's input is kept and divided out.

    A structure is a frozen dataclass. It sees a layer as ``(groups, inputs, outputs)`` and
    nothing of parameter trees, of optax or of the leaf's own shape.
    """

    def size(self, groups: int, inputs: int) -> int:
        """How many numbers the history of one layer takes."""
        ...

    def observe(self, squares: Float[Array, "groups inputs"]) -> Float[Array, "groups ..."]:
        """What is kept, from the sums over rows of every feature's square."""
        ...

    def feature_power(self, power: Float[Array, "groups ..."]) -> Float[Array, "groups _ 1"]:
        """Every feature's mean square, to broadcast against ``(groups, inputs, outputs)``."""
        ...

    def normalize(
        self,
        power: Float[Array, "groups ..."],
        gradient: Float[Array, "groups inputs outputs"],
        eps: Number,
    ) -> Float[Array, "groups inputs outputs"]:
        """``A⁻¹ G``, with zero in the place of ``0 / 0``."""
        ...


def check_structure(structure: object) -> None:
    """Raises a TypeError if this is no structure, or the class of one."""
    if isinstance(structure, type) or not isinstance(structure, Structure):
        raise TypeError(
            "structure must be a structure such as insgd_optax.Scalar() or "
            f"insgd_optax.Diagonal(), not {structure!r}."
        )


def safe_reciprocal(power: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """``1 / power``, and 0 where the power is 0: a layer that saw nothing takes no step.

    The bound is the smallest normal number, so that the reciprocal is always finite.
    """
    smallest = jnp.finfo(power.dtype).tiny
    present = power >= smallest
    return jnp.where(present, 1 / jnp.where(present, power, 1), 0)
