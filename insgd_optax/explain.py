"""explain: a table of the layers of every parameter, without running the model."""

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
      layout: its layout, or None if no layer uses it.
      structure: the structure of its layer's input, or None.
      state: the number of values that `scale_by_input` keeps for it, given its layout.
      rows: the number of rows of this batch that each of its layer's matrices is applied to.
      uses: the number of times that this happens.
      note: why there is no layer, or why less is kept than requested.
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
        """Approximate multiply-adds of its layer's forward and backward pass."""
        if self.layout is None:
            return 0.0
        groups, inputs, outputs = self.layout.groups, self.layout.inputs, self.layout.outputs
        if not self.layout.exact:
            outputs = max(1, outputs // max(1, inputs))
        if self.layout.one_hot:  # reads and adds rows, and writes a gradient as large as the table
            return float(ELEMENTWISE_COST * groups * (2 * self.rows + inputs) * outputs)
        return 3.0 * groups * self.rows * inputs * outputs

    @property
    def cost(self) -> float:
        """Normalization cost relative to the layer's own work (see `Structure.work`)."""
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
    """The result of `explain`. It prints as a table.

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
        """The total number of values that `scale_by_input` keeps with these layouts.

        A value takes four bytes.
        """
        return sum(row.state for row in self.rows)

    @property
    def cost(self) -> float:
        """The cost of the structure relative to the layers' forward and backward work."""
        own = sum(row.work for row in self.rows)
        return sum(row.cost * row.work for row in self.rows) / max(1, own)

    def within_budget(self, fraction: float, *candidates: Structure) -> PerLayer:
        """Selects for every layer the first candidate whose relative cost is within the budget.

        The number of rows of the batch matters, so take a batch of the training size. Use the
        result like any structure, in `value_and_grad` and in the optimizer. The optimizer also
        needs the ``layouts``. Layers with the same layout get the same structure, one that fits all
        of them.

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
          *candidates: structures from the richest to the cheapest. The last one is the fallback.

        Raises:
          TypeError: if a candidate is not a structure.
          ValueError: if there is no candidate, or if two candidates differ in ``refresh_every``.
        """
        check_between("fraction", fraction, 0)
        if not candidates:
            raise ValueError("within_budget needs structures to select from, richest first.")
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
    """Reports the layers that `value_and_grad` would capture, by tracing alone.

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
      *args: the other arguments of the loss.
      batch_argnums: as in `value_and_grad`.
      structure: as in `value_and_grad`.
      **kwargs: the keyword arguments of the loss.

    Returns:
      An `Explanation`, with a row for every leaf of ``params``. Print it, or read its ``rows``.
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
