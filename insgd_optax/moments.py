"""InputMoments: the statistics of a leaf, from the capture to the transformation."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from insgd_optax.layout import Layout
from insgd_optax.structures import Scalar, Structure


@dataclasses.dataclass(frozen=True)
class Bias:
    """The leaf that is added to a layer's result. It is the weight of an input that is always 1.

    Attributes:
      path: the leaf's path.
      layout: splits the leaf into one row per matrix of the layer, ``(groups, 1, outputs)``.
    """

    path: str
    layout: Layout


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InputMoments:
    """Sums over the rows that a layer saw, and the number of rows.

    A row is the vector that a weight is contracted with: an example (or a position of it) for a
    dense layer, a patch for a convolution, a one-hot vector for an embedding. Sums and counts add
    over micro-batches, scan steps, shared uses and devices. Means do not, so none are stored.

    >>> from insgd_optax import Diagonal, Layout
    >>> inputs = jnp.array([[1.0, 2.0], [3.0, 0.0]])          # two rows of two features
    >>> moments = InputMoments(
    ...     sums=jnp.sum(inputs**2, axis=0)[None], count=jnp.array([2.0]),
    ...     layout=Layout.of_matrix((2, 3)), structure=Diagonal())
    >>> moments.mean().tolist()                               # (1 + 9) / 2 and (4 + 0) / 2
    [[5.0, 2.0]]

    Attributes:
      sums: ``(groups, ...)``, sums over rows of the structure's statistics; float32, or float64 if
        the input is. `Scalar`: ``(groups,)``, the mean square of the features (mean magnitude for
        order 1). `Diagonal`: ``(groups, inputs)``, the square of each feature. The other structures
        document theirs.
      count: ``(groups,)``, the number of rows (of examples, if `Released` keeps a convolution's).
      layout: splits the leaf into the matrices of its layer (static).
      structure: the structure that was asked for (static). A leaf without an exact layout is still
        kept as `Scalar`.
      per_example: the `PerExample` that divided the gradient of every row, or None (static).
      bias: the leaf that is added to the layer's result, or None (static). `value_and_grad` reads
        it from the trace. If the statistics come from elsewhere, set it yourself.
    """

    # Not Float[Array, "groups ..."], because JAX rebuilds pytrees around placeholders.
    sums: Any
    count: Any
    layout: Layout = dataclasses.field(metadata={"static": True})
    structure: Structure = dataclasses.field(metadata={"static": True})
    per_example: Any = dataclasses.field(default=None, metadata={"static": True})
    bias: Bias | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def kept(self) -> Structure:
        """The structure for this leaf."""
        return kept_structure(self.structure, self.layout)

    def mean(self) -> Float[Array, "groups ..."]:
        """The mean over rows; zero if no row was seen."""
        # `jax.lax.pmean` counts a row that only one device saw as less than one row.
        rows = jnp.where(self.count > 0, self.count, jnp.ones_like(self.count))
        return self.sums / rows.reshape(-1, *(1,) * (self.sums.ndim - 1))

    def row_power(self, power: Float[Array, "groups ..."]) -> Float[Array, "groups _ 1"]:
        """The power ``E‖x‖ₚᵖ`` of a row, from the mean power of its features."""
        return self.layout.inputs * self.kept.feature_power(power)

    def per_weight(self) -> Float[Array, "..."]:
        """The mean power of the input to every weight, in the shape of the leaf."""
        layout = self.layout
        power = self.kept.feature_power(self.mean())
        return layout.merge(jnp.broadcast_to(power, layout.matrices))


def kept_structure(structure: Structure, layout: Layout) -> Structure:
    """The structure for a leaf of this layout; a single value without an exact layout."""
    return structure.for_layer(layout) if layout.exact else Scalar(structure.order)
