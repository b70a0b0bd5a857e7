"""PerLayer: a structure for each kind of layer."""

import dataclasses

from insgd_optax.layout import Layout
from insgd_optax.structures.base import Structure
from insgd_optax.structures.diagonal import Diagonal


@dataclasses.dataclass(frozen=True)
class PerLayer(Diagonal):
    """A structure for each layout, and `Diagonal` for all other layouts.

    `Explanation.within_budget` creates it. Its choices are part of it, so a batch of another size
    changes nothing.

    >>> from insgd_optax import Scalar
    >>> wide, narrow = Layout.of_matrix((784, 10)), Layout.of_matrix((10, 10))
    >>> structure = PerLayer(((narrow, Scalar()),))
    >>> structure.for_layer(narrow), structure.for_layer(wide)
    (Scalar(order=2), Diagonal())

    Attributes:
      choices: pairs of a layout and its structure.

    Raises:
      ValueError: if structures differ in ``refresh_every``.
    """

    choices: tuple[tuple[Layout, Structure], ...] = ()

    def __post_init__(self) -> None:
        if len({kept.refresh_every for _, kept in self.choices} - {1}) > 1:
            raise ValueError(
                "PerLayer has structures with different refresh_every, but an optimizer refreshes "
                "all its layers together. Give them the same value."
            )

    def for_layer(self, layout: Layout) -> Structure:
        return dict(self.choices).get(layout, Diagonal())
