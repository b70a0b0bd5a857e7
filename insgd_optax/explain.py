"""explain: a table of what the capture finds for every parameter, without running the model."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from insgd_optax.capture.tracing import Leaf, trace
from insgd_optax.layout import Layout
from insgd_optax.moments import kept_structure
from insgd_optax.settings import check_between
from insgd_optax.structures import (
    ELEMENTWISE_COST,
    MeanVariances,
    PerLayer,
    Structure,
    check_structure,
)
from insgd_optax.transforms.capacity import room_for


@dataclasses.dataclass(frozen=True)
class LeafReport:
    """One row of an `Explanation`.

    Attributes:
      path: the leaf's path.
      shape: its shape.
      equations: the primitives of the layers that use it.
      layout: its layout, or None where no layer uses it.
      structure: what is kept of its layer's input, or None.
      state: how many numbers `scale_by_input` keeps for it, with its layout known.
      rows: how many rows of this batch each of its layer's matrices is applied to.
      uses: how often that is done.
      note: why there is nothing, or why less is kept than was asked for.
    """

    path: str
    shape: tuple[int, ...]
    equations: tuple[str, ...]
    layout: Layout | None
    structure: Structure | None
    state: int
    rows: int
    uses: int
    note: str

    @property
    def work(self) -> float:
        """About how many multiply-adds its layer's forward and backward pass take."""
        if self.layout is None:
            return 0.0
        groups, inputs, outputs = self.layout.groups, self.layout.inputs, self.layout.outputs
        if not self.layout.exact:
            outputs = max(1, outputs // max(1, inputs))
        if self.layout.one_hot:  # rows are read and added, and the gradient is as large as a table
            return float(ELEMENTWISE_COST * groups * (2 * self.rows + inputs) * outputs)
        return 3.0 * groups * self.rows * inputs * outputs

    @property
    def cost(self) -> float:
        """What is done for it besides, as a share of that (see `Structure.work`)."""
        if self.layout is None or self.structure is None:
            return 0.0
        rows = 0 if self.layout.one_hot else self.rows
        work = self.structure.work(rows, self.layout.inputs, self.layout.outputs, self.uses)
        return self.layout.groups * work / max(1, self.work)

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        sizes = "-"
        if self.layout is not None and self.layout.exact:
            layout = self.layout
            sizes = f"{layout.groups} x {layout.inputs} x {layout.outputs}"
        kept = type(self.structure).__name__ if self.structure else "-"
        equations = ", ".join(self.equations) or "-"
        numbers = f"{self.state:,}", f"{self.cost:.1%}" if self.structure else "-"
        return self.path, str(self.shape), equations, sizes, kept, *numbers, self.note


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What the capture found. It prints as a table.

    Attributes:
      rows: one `LeafReport` for every leaf.
    """

    rows: tuple[LeafReport, ...]

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """Layouts by path, for ``scale_by_input(..., layouts=...)``."""
        return {row.path: row.layout for row in self.rows if row.layout is not None}

    @property
    def state(self) -> int:
        """How many numbers `scale_by_input` keeps in all, given these layouts; four bytes each."""
        return sum(row.state for row in self.rows)

    @property
    def cost(self) -> float:
        """What the structure costs, as a share of the layers' own forward and backward work."""
        own = sum(row.work for row in self.rows)
        return sum(row.cost * row.work for row in self.rows) / max(1, own)

    def within_budget(self, fraction: float, *candidates: Structure) -> PerLayer:
        """For every layer the first of the candidates that costs no more than a share of it.

        The batch decides, through its number of rows, so take one of the size to train with. The
        result is used as any structure is, in `value_and_grad` and in the optimizer, which needs
        the ``layouts`` too. Layers of one layout get one structure: that which all of them afford.

        >>> import insgd_optax
        >>> import jax.numpy as jnp
        >>> def loss_fn(params, inputs):
        ...     return jnp.mean(jnp.tanh(inputs @ params["wide"]) @ params["narrow"])
        >>> params = {"wide": jnp.ones((512, 16)), "narrow": jnp.ones((16, 512))}
        >>> report = explain(loss_fn, params, jnp.ones((256, 512)))
        >>> structure = report.within_budget(0.5, insgd_optax.Full(), insgd_optax.Diagonal())
        >>> report = explain(loss_fn, params, jnp.ones((256, 512)), structure=structure)
        >>> [(row.path, type(row.structure).__name__) for row in report.rows]
        [('narrow', 'Full'), ('wide', 'Diagonal')]

        Args:
          fraction: the largest `LeafReport.cost` of a layer.
          *candidates: structures from the richest to the cheapest, which is taken where none
            costs so little.

        Raises:
          TypeError: if a candidate is no structure.
          ValueError: if there is no candidate, or if two are computed again after different
            numbers of updates.
        """
        check_between("fraction", fraction, 0)
        if not candidates:
            raise ValueError("within_budget needs structures to choose from, the richest first.")
        for candidate in candidates:
            check_structure(candidate)
        choices: dict[Layout, Structure] = {}
        for layout in self.layouts.values():
            rows = [row for row in self.rows if row.layout == layout]
            choices[layout] = _affordable(fraction, candidates, rows, layout)
        return PerLayer(tuple(choices.items()))

    def __str__(self) -> str:
        sizes = "groups x in x out"
        header = "parameter", "shape", "layer", sizes, "structure", "state", "cost", "note"
        table = [header, *(row.cells() for row in self.rows)]
        widths = [max(len(row[column]) for row in table) for column in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def explain(
    loss_fn: Callable[..., Any],
    params: Any,
    *args: Any,
    batch_argnums: int | Sequence[int] | None = None,
    structure: Structure = MeanVariances(),  # noqa: B008 (frozen)
    **kwargs: Any,
) -> Explanation:
    """What `value_and_grad` would capture for every leaf of ``params``, found by tracing alone.

    >>> import jax.numpy as jnp
    >>> def loss_fn(params, inputs):
    ...     return jnp.mean(inputs @ params["kernel"] + params["bias"])
    >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
    >>> report = explain(loss_fn, params, jnp.ones((8, 2)))
    >>> [(row.path, row.equations) for row in report.rows]
    [('bias', ()), ('kernel', ('dot_general',))]
    >>> report.layouts["kernel"].inputs
    2
    >>> report.state                        # two means, two squares, and the weight of the history
    5

    Args:
      loss_fn: the loss, with the parameters as its first argument.
      params: the parameters.
      *args: the loss's other arguments.
      batch_argnums: as in `value_and_grad`.
      structure: as in `value_and_grad`.
      **kwargs: the loss's keyword arguments.

    Returns:
      An `Explanation`: ``print`` it, or read its ``rows``.
    """
    leaves = trace(loss_fn, (params, *args), kwargs, 0, batch_argnums).leaves
    return Explanation(tuple(_report(leaf, structure) for leaf in leaves))


def _affordable(
    fraction: float, candidates: Sequence[Structure], rows: Sequence[LeafReport], layout: Layout
) -> Structure:
    for candidate in candidates[:-1]:
        kept = kept_structure(candidate, layout)
        costs = [dataclasses.replace(row, structure=kept).cost for row in rows]
        if kept == candidate and max(costs) <= fraction:
            return kept
    return kept_structure(candidates[-1], layout)


def _report(leaf: Leaf, structure: Structure) -> LeafReport:
    if leaf.target is None:
        return LeafReport(leaf.name, leaf.shape, leaf.equations, None, None, 0, 0, 0, leaf.reason)
    layout = leaf.target.layout
    kept = kept_structure(structure, layout)
    state = sum(room_for(structure, leaf.shape, layout))
    seen = leaf.equations, layout, kept, state, leaf.rows, leaf.uses
    return LeafReport(leaf.name, leaf.shape, *seen, leaf.reason)
