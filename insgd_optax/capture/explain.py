"""explain: a table of what the capture finds for every parameter, without running the model."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from insgd_optax.capture.tracing import Leaf, trace
from insgd_optax.layout import Layout
from insgd_optax.moments import kept_structure
from insgd_optax.room import room_for
from insgd_optax.structures import Diagonal, Structure


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
      note: why there is nothing, or why less is kept than was asked for.
    """

    path: str
    shape: tuple[int, ...]
    equations: tuple[str, ...]
    layout: Layout | None
    structure: Structure | None
    state: int
    note: str

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        sizes = "-"
        if self.layout is not None and self.layout.exact:
            layout = self.layout
            sizes = f"{layout.groups} x {layout.inputs} x {layout.outputs}"
        kept = type(self.structure).__name__ if self.structure else "-"
        equations = ", ".join(self.equations) or "-"
        return self.path, str(self.shape), equations, sizes, kept, f"{self.state:,}", self.note


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

    def __str__(self) -> str:
        header = ("parameter", "shape", "layer", "groups x in x out", "structure", "state", "note")
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
    structure: Structure = Diagonal(),  # noqa: B008 (frozen)
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
    >>> report.state                                     # two powers, and the weight of their mean
    3

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


def _report(leaf: Leaf, structure: Structure) -> LeafReport:
    if leaf.target is None:
        return LeafReport(leaf.name, leaf.shape, leaf.equations, None, None, 0, leaf.reason)
    layout = leaf.target.layout
    kept = kept_structure(structure, layout)
    state = sum(room_for(structure, leaf.shape, layout))
    return LeafReport(leaf.name, leaf.shape, leaf.equations, layout, kept, state, leaf.reason)
