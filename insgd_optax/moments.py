"""InputMoments: what passes from the capture to the transformation, one for each leaf."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from insgd_optax.layout import Layout
from insgd_optax.structures import Scalar, Structure


@dataclasses.dataclass(frozen=True)
class Bias:
    """The leaf that is added to a layer's result: the weight of an input that is always 1.

    Attributes:
      path: the leaf's path.
      layout: how it is seen as one row for each of the layer's matrices: ``(groups, 1, outputs)``.
    """

    path: str
    layout: Layout


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InputMoments:
    """Sums over the rows that a layer saw, and how many rows there were.

    A row is what the weight is contracted with: an example (or a position of it) for a dense
    layer, a patch for a convolution, a one-hot vector for an embedding. Sums with their counts
    add: over micro-batches, scan steps, shared uses and devices. Means do not, so none is kept.

    >>> from insgd_optax import Diagonal, Layout
    >>> inputs = jnp.array([[1.0, 2.0], [3.0, 0.0]])          # two rows of two features
    >>> moments = InputMoments(
    ...     sums=jnp.sum(inputs**2, axis=0)[None], count=jnp.array([2.0]),
    ...     layout=Layout.of_matrix((2, 3)), structure=Diagonal())
    >>> moments.mean().tolist()                               # (1 + 9) / 2 and (4 + 0) / 2
    [[5.0, 2.0]]

    Attributes:
      sums: ``(groups, ...)``, sums over rows of what the structure keeps; float32, or float64
        where the input is. `Scalar`: ``(groups,)``, the mean over features of each one's square
        (magnitude, for order 1). `Diagonal`: ``(groups, inputs)``, each feature's square. The
        other structures say so in their own text.
      count: ``(groups,)``, the number of rows (of examples, where `Released` keeps a
        convolution's).
      layout: how the leaf is seen as its layer's matrices (static).
      structure: the structure that was asked for (static). A leaf without an exact layout is
        kept as `Scalar` all the same.
      per_example: the `PerExample` that the gradient of every row was divided by, or None
        (static).
      bias: the leaf that is added to the layer's result, or None (static). `value_and_grad` reads
        it from the trace; with statistics from elsewhere, name it yourself.
    """

    # Not checked as Float[Array, "groups ..."]: JAX rebuilds pytrees around placeholders.
    sums: Any
    count: Any
    layout: Layout = dataclasses.field(metadata={"static": True})
    structure: Structure = dataclasses.field(metadata={"static": True})
    per_example: Any = dataclasses.field(default=None, metadata={"static": True})
    bias: Bias | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def kept(self) -> Structure:
        """The structure that is kept for this leaf."""
        return kept_structure(self.structure, self.layout)

    def mean(self) -> Float[Array, "groups ..."]:
        """The mean over rows; zero where no row was seen."""
        # Less than one row is what `jax.lax.pmean` makes of a row that one device saw.
        rows = jnp.where(self.count > 0, self.count, jnp.ones_like(self.count))
        return self.sums / rows.reshape(-1, *(1,) * (self.sums.ndim - 1))

    def row_power(self, power: Float[Array, "groups ..."]) -> Float[Array, "groups _ 1"]:
        """A row's power ``E‖x‖ₚᵖ``, from the mean power of its features."""
        return self.layout.inputs * self.kept.feature_power(power)

    def per_weight(self) -> Float[Array, "..."]:
        """For every weight, the mean power of the input that it multiplies: the leaf's shape."""
        layout = self.layout
        power = self.kept.feature_power(self.mean())
        return layout.merge(jnp.broadcast_to(power, layout.matrices))


def kept_structure(structure: Structure, layout: Layout) -> Structure:
    """The structure that a leaf of this layout gets: one number where there is no exact layout."""
    return structure.for_layer(layout) if layout.exact else Scalar(structure.order)
