"""What a structure is: a few pure functions on the arrays of one layer."""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

# A setting, or a traced one (`optax.inject_hyperparams`).
Number = int | float | Float[Array, ""]

Sums = tuple[Float[Array, "groups ..."], Float[Array, " groups"]]
Signals = tuple[Float[Array, "groups examples channels positions"], Float[Array, " groups"]]


@runtime_checkable
class LayerInput(Protocol):
    """What a structure may ask of the input of one layer, whichever kind of layer it is.

    Attributes:
      groups, inputs: how many matrices the layer has, and how many inputs each of them.
      has_positions: whether the input has channels with positions, as a convolution's has.
    """

    @property
    def groups(self) -> int: ...

    @property
    def inputs(self) -> int: ...

    @property
    def has_positions(self) -> bool: ...

    def sums(self, order: int) -> Sums:
        """``(groups, inputs)``, sums over rows of ``|x_i|**order``, and the number of rows."""
        ...

    def signals(self) -> Signals:
        """The input before it is cut into rows, and how often each example counts.

        A dense layer's has one channel, whose positions are the features.
        """
        ...

    def per_input(self, channels: Float[Array, "groups channels"]) -> Float[Array, "groups inputs"]:
        """For every input of the layer the number of the channel that it comes from."""
        ...


@runtime_checkable
class Structure(Protocol):
    """How the second moment ``A = E[x xᵀ]`` of a layer's input is kept and divided out.

    A structure is a frozen dataclass. It sees a layer as ``(groups, inputs, outputs)`` and
    nothing of parameter trees, of optax or of the leaf's own shape.

    Attributes:
      order: the power of an input's magnitude that it sums, 1 or 2.
    """

    @property
    def order(self) -> int: ...

    def shape(self, groups: int, inputs: int) -> tuple[int, ...]:
        """The shape of what is kept for one layer; the first axis is the groups'."""
        ...

    def observe(self, seen: LayerInput) -> Sums:
        """What is kept of a layer's input, as sums over rows, and the number of rows."""
        ...

    def feature_power(self, power: Float[Array, "groups ..."]) -> Float[Array, "groups _ 1"]:
        """Every feature's mean power, to broadcast against ``(groups, inputs, outputs)``."""
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


def check_order(order: object) -> None:
    """Raises unless the order is that of a norm the sources use."""
    check_is_static("order", order)
    if order not in (1, 2):
        raise ValueError(f"order must be 1 (the l1 norm) or 2 (the l2 norm), not {order!r}.")


def check_is_static(name: str, setting: object) -> None:
    """Raises a TypeError unless a setting that decides what is traced is a Python number."""
    if not isinstance(setting, int | float):
        raise TypeError(
            f"{name} must be a Python number, not {type(setting).__name__}. With "
            f"optax.inject_hyperparams pass static_args=('{name}',)."
        )


def safe_reciprocal(power: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """``1 / power``, and 0 where the power is 0: a layer that saw nothing takes no step.

    The bound is the smallest normal number, so that the reciprocal is always finite.
    """
    smallest = jnp.finfo(power.dtype).tiny
    present = power >= smallest
    return jnp.where(present, 1 / jnp.where(present, power, 1), 0)
