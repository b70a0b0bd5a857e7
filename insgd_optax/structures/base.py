"""What a structure is: a few pure functions on the arrays of one layer."""

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
      values: shape (*channels, *examples, *positions). A dense layer has no channels but its
        groups, and its positions are the features. Axes stay apart: one may be sharded.
      examples, positions: how many axes there are of each.
      times: how often each example counts; shape ().
    """

    values: Float[Array, "..."]
    examples: int
    positions: int
    times: Float[Array, ""]


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

    def first_sums(self) -> Float[Array, "groups inputs"]:
        """Sums over rows of ``x_i``; 0 for complex inputs, which count as having no mean."""
        ...

    def rows(self, number: int | None) -> Float[Array, "groups rows inputs"]:
        """The rows themselves: all of them, or about so many, drawn without bias."""
        ...

    def signals(self) -> Signals:
        """The input before it is cut into rows."""
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

    @property
    def refresh_every(self) -> int:
        """After how many updates `factor` is computed again; 1 for structures that keep none."""
        ...

    @property
    def memory(self) -> int:
        """For how many times as many updates as ``decay`` says its history lasts."""
        ...

    def for_layer(self, layout: Layout) -> "Structure":
        """What a layer of this layout gets: itself, or something cheaper."""
        ...

    def shape(self, groups: int, inputs: int) -> tuple[int, ...]:
        """The shape of what is kept for one layer; the first axis is the groups'."""
        ...

    def work(self, rows: int, inputs: int, outputs: int, uses: int = 1) -> float:
        """About how many multiply-adds of matrix products an update takes for one matrix.

        For its statistics, its factor (a refresh counts for the updates until the next) and its
        gradient, where ``uses`` layers apply it to ``rows`` rows in all. An element that is read
        and written counts as ``ELEMENTWISE_COST``.
        """
        ...

    def observe(self, seen: LayerInput) -> Sums:
        """What is kept of a layer's input, as sums over rows, and the number of rows."""
        ...

    def feature_power(self, power: Float[Array, "groups ..."]) -> Float[Array, "groups _ 1"]:
        """Every feature's mean power, to broadcast against ``(groups, inputs, outputs)``."""
        ...

    def guarded(
        self, history: Float[Array, "groups ..."], batch: Float[Array, "groups ..."]
    ) -> tuple[Float[Array, "groups ..."], Float[Array, " groups"]]:
        """The larger of both: what `factor` is made of, and each group's unit for it.

        The unit is 1, or the mean power where the factor is relative to that.
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
          power: what is kept, as `guarded` returns it.
          exponent: from -1 to 1.
          eps: relative shrinkage of a feature's power to ``level``.
          level: each group's mean power over its features, itself shrunk to the mean over groups.
        """
        ...

    def apply(
        self,
        factor: Float[Array, "groups ..."],
        gradient: Inexact[Array, "groups inputs outputs"],
    ) -> Inexact[Array, "groups inputs outputs"]:
        """``A`` to the power that the factor was made for, times the gradient."""
        ...


class Lasting:
    """A structure whose history lasts as long as ``decay`` says."""

    @property
    def memory(self) -> int:
        return 1


class EveryUpdate(Lasting):
    """A structure that any layer gets and whose factor is computed at every update."""

    @property
    def refresh_every(self) -> int:
        return 1

    def for_layer(self: T, layout: Layout) -> T:
        del layout
        return self


class PerFeature(EveryUpdate):
    """A structure that keeps one number for every feature, and multiplies by one."""

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
    """Raises a TypeError if this is no structure, or the class of one."""
    if isinstance(structure, type) or not isinstance(structure, Structure):
        raise TypeError(
            "structure must be a structure such as insgd_optax.Scalar() or "
            f"insgd_optax.Diagonal(), not {structure!r}.{_lacking(structure)}"
        )


def _lacking(structure: object) -> str:
    """The members of a structure that an object lacks, if it has some of them."""
    members = [name for name in vars(Structure) if not name.startswith("_")]
    missing = [name for name in members if not hasattr(structure, name)]
    has_some = len(missing) < len(members) and not isinstance(structure, type)
    return f" It lacks {', '.join(missing)}." if has_some else ""
