"""The interface of a structure: a few pure functions on the arrays of one layer."""

from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from insgd_optax.layout import Layout
from insgd_optax.settings import Number

T = TypeVar("T")

ELEMENTWISE_COST = 8  # multiply-adds of a large matrix product, per element read and written

Sums = tuple[Float[Array, "groups ..."], Float[Array, " groups"]]


class Signals(NamedTuple):
    """A layer's input before it is cut into rows.

    Attributes:
      values: shape (*channels, *examples, *positions). The channels of a dense layer are its
        groups, and its positions are the features. Axes stay separate, as one may be sharded.
      examples, positions: the number of axes of each.
      times: how often each example counts; shape ().
    """

    values: Float[Array, "..."]
    examples: int
    positions: int
    times: Float[Array, ""]


@runtime_checkable
class LayerInput(Protocol):
    """The input of one layer, as a structure sees it for any kind of layer.

    Attributes:
      groups, inputs: the number of matrices of the layer, and of inputs to each of them.
      has_positions: whether the input has channels with positions, as in a convolution.
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

    def first_sums(self) -> Float[Array, "groups inputs"]:
        """Sums over rows of ``x_i``; 0 for complex inputs, which count as having no mean."""
        ...

    def rows(self, number: int | None) -> Float[Array, "groups rows inputs"]:
        """All rows if ``number`` is None, else about that many, drawn without bias."""
        ...

    def signals(self) -> Signals:
        """The input before it is cut into rows."""
        ...

    def per_input(self, channels: Float[Array, "groups channels"]) -> Float[Array, "groups inputs"]:
        """For every input of the layer, the value of the channel that it comes from."""
        ...


@runtime_checkable
class Structure(Protocol):
    """How the second moment ``A = E[x xᵀ]`` of a layer's input is kept and divided out.

    A structure is a frozen dataclass. It sees a layer as ``(groups, inputs, outputs)``. It does not
    see parameter trees, optax or the shape of the leaf.

    Attributes:
      order: the power of an input's magnitude that it sums, 1 or 2.
    """

    @property
    def order(self) -> int: ...

    @property
    def refresh_every(self) -> int:
        """The number of updates between refreshes of a cached factor; 1 for no cache."""
        ...

    @property
    def memory(self) -> int:
        """The history lasts this many times as long as ``decay`` implies."""
        ...

    def for_layer(self, layout: Layout) -> "Structure":
        """The structure for a layer of this layout: itself or a cheaper one."""
        ...

    def shape(self, groups: int, inputs: int) -> tuple[int, ...]:
        """The shape of the statistics of one layer; the first axis is the groups."""
        ...

    def work(self, rows: int, inputs: int, outputs: int, uses: int = 1) -> float:
        """The approximate cost of an update for one matrix, in multiply-adds of matrix products.

        It covers the statistics, the factor and the gradient. A refresh is spread over the updates
        until the next. ``uses`` layers apply the matrix to ``rows`` rows in total. An element that
        is read and written counts as ``ELEMENTWISE_COST``.
        """
        ...

    def observe(self, seen: LayerInput) -> Sums:
        """The statistics of a layer's input as sums over rows, and the number of rows."""
        ...

    def feature_power(self, power: Float[Array, "groups ..."]) -> Float[Array, "groups _ 1"]:
        """Mean power of each feature, to broadcast against ``(groups, inputs, outputs)``."""
        ...

    def guarded(
        self, history: Float[Array, "groups ..."], batch: Float[Array, "groups ..."]
    ) -> tuple[Float[Array, "groups ..."], Float[Array, " groups"]]:
        """The larger of both, as input to `factor`, and the unit of each group.

        The unit is 1, or the mean power if the factor is relative to it.
        """
        ...

    def factor(
        self,
        power: Float[Array, "groups ..."],
        exponent: Number,
        eps: Number,
        level: Float[Array, " groups"],
    ) -> Float[Array, "groups ..."]:
        """``A ** exponent`` in the form that `apply` expects; 1 / 0 becomes 0.

        Args:
          power: the statistics, as `guarded` returns them.
          exponent: from -1 to 1.
          eps: relative shrinkage of a feature's power to ``level``.
          level: mean power of each group's features, itself shrunk to the mean over groups.
        """
        ...

    def apply(
        self,
        factor: Float[Array, "groups ..."],
        gradient: Inexact[Array, "groups inputs outputs"],
    ) -> Inexact[Array, "groups inputs outputs"]:
        """Multiplies the gradient by the power of ``A`` in the factor."""
        ...


class Lasting:
    """A structure whose history lasts as long as ``decay`` implies."""

    @property
    def memory(self) -> int:
        return 1


class EveryUpdate(Lasting):
    """A structure for any layer whose factor is computed at every update."""

    @property
    def refresh_every(self) -> int:
        return 1

    def for_layer(self: T, layout: Layout) -> T:
        del layout
        return self


class PerFeature(EveryUpdate):
    """A structure that keeps one value and applies one factor per feature."""

    def shape(self, groups: int, inputs: int) -> tuple[int, ...]:
        return groups, inputs

    def work(self, rows: int, inputs: int, outputs: int, uses: int = 1) -> float:
        del uses
        return float(ELEMENTWISE_COST * inputs + rows * inputs + inputs * outputs)

    def feature_power(
        self, power: Float[Array, "groups inputs"]
    ) -> Float[Array, "groups inputs 1"]:
        return power[:, :, None]

    def squared_norm(self, power: Float[Array, "groups inputs"]) -> Float[Array, " groups"]:
        return jnp.sum(power**2, axis=1)

    def guarded(
        self, history: Float[Array, "groups inputs"], batch: Float[Array, "groups inputs"]
    ) -> tuple[Float[Array, "groups inputs"], Float[Array, " groups"]]:
        return jnp.maximum(history, batch), jnp.ones_like(history, shape=history.shape[:1])

    def apply(
        self,
        factor: Float[Array, "groups inputs"],
        gradient: Inexact[Array, "groups inputs outputs"],
    ) -> Inexact[Array, "groups inputs outputs"]:
        return gradient * factor[:, :, None]


def check_structure(structure: object) -> None:
    """Raises a TypeError if this is not a structure, or if it is the class of one."""
    if isinstance(structure, type) or not isinstance(structure, Structure):
        raise TypeError(
            "structure must be a structure, such as insgd_optax.Scalar() or "
            f"insgd_optax.Diagonal(), not {structure!r}.{_lacking(structure)}"
        )


def _lacking(structure: object) -> str:
    """The members of a structure that an object lacks, if it has any of the others."""
    members = [name for name in vars(Structure) if not name.startswith("_")]
    missing = [name for name in members if not hasattr(structure, name)]
    has_some = len(missing) < len(members) and not isinstance(structure, type)
    return f" It lacks {', '.join(missing)}." if has_some else ""
