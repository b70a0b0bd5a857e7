"""Reports the measured costs as a plain table, a Markdown table, a figure and a JSON file."""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.shared.machine import machine
from benchmarks.shared.report import (
    OTHERS,
    STYLES,
    listed,
    markdown_table,
    plain,
    write_figure,
    write_json,
)

# A color and a marker for each workload.
POINTS = (*STYLES.values(), (OTHERS[0], "v"))
HEADER = (
    "", "trace", "compile", "step", "announced", "first step / Adam", "state, MB", "temporary, MB"
)  # fmt: skip


@dataclasses.dataclass
class Costs:
    """The costs of one contender on one workload.

    Attributes:
      state_bytes: bytes of the optimizer's state.
      temporary_bytes: the most bytes that the step allocates beyond its arguments and results.
        None if XLA does not tell.
      trace: seconds to trace the step, for each compilation.
      compile: seconds to lower and compile it, for each compilation.
      step: mean seconds per step, for each round.
      announced: the cost of a step relative to SGD's according to `insgd.explain`. None for peers.
      loss: the last step's loss. If it is not finite, `insgd` skips the step and the time is not
        that of training.
    """

    state_bytes: int
    temporary_bytes: int | None = None
    trace: list[float] = dataclasses.field(default_factory=list)
    compile: list[float] = dataclasses.field(default_factory=list)
    step: list[float] = dataclasses.field(default_factory=list)
    announced: float | None = None
    loss: float | None = None

    @property
    def first_step(self) -> list[float]:
        """Seconds until the first step can run."""
        return [sum(pair) for pair in zip(self.trace, self.compile, strict=True)]


Measured = Mapping[str, Mapping[str, Costs]]


def ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """The ratio of each round."""
    return [value / other for value, other in zip(values, base, strict=True)]


def table(costs: Mapping[str, Costs]) -> list[tuple[str, ...]]:
    """The header, a row with SGD's own times, and a row for every contender."""
    sgd, adam = costs["SGD"], costs["Adam"]
    seconds = (statistics.median(times) for times in (sgd.trace, sgd.compile, sgd.step))
    rows = [HEADER, ("SGD itself", *(f"{time:.3g} s" for time in seconds), *[""] * 4)]
    for name, cost in costs.items():
        compared = (
            ratios(cost.trace, sgd.trace),
            ratios(cost.compile, sgd.compile),
            ratios(cost.step, sgd.step),
            ratios(cost.first_step, adam.first_step),
        )
        *medians, first = (f"{statistics.median(every):.3f}" for every in compared)
        announced = "" if cost.announced is None else f"{cost.announced:.3f}"
        sizes = _megabytes(cost.state_bytes), _megabytes(cost.temporary_bytes)
        rows.append((name, *medians, announced, first, *sizes))
    return rows


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.2f}"


def print_table(name: str, costs: Mapping[str, Costs]) -> None:
    """Prints a workload's table."""
    rows = table(costs)
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    print(f"\n{name}: ratios to SGD, medians over rounds")
    for label, *cells in rows:
        aligned = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        print("  ".join(["", label.ljust(first), *aligned]).rstrip(), flush=True)


def _as_json(costs: Costs) -> dict[str, Any]:
    """The costs for JSON. A loss that is not finite becomes null."""
    loss = None if costs.loss is None else listed(costs.loss)
    return dataclasses.asdict(costs) | {"loss": loss}


def write_report(out: Path, settings: Mapping[str, int], measured: Measured) -> None:
    """Writes ``step_time.json`` with every raw number, ``step_time.md`` and ``step_time.png``."""
    raw = {
        workload: {name: _as_json(cost) for name, cost in costs.items()}
        for workload, costs in measured.items()
    }
    write_json(out / "step_time.json", {**settings, "workloads": raw})
    (out / "step_time.md").write_text(_page(settings, measured))
    _draw(out / "step_time.png", measured)


def _page(settings: Mapping[str, int], measured: Measured) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in machine().items())
    lines = [
        "# The cost of a step",
        "",
        f"Written by `python -m benchmarks.step_time`: {settings['rounds']} rounds of "
        f"{settings['steps']} steps.",
        "Trace, compile and step are ratios to SGD with momentum in the same round. The table",
        "shows medians over rounds. The first step is trace and compile together.",
        "",
        f"Measured on: {versions}.",
    ]
    for workload, costs in measured.items():
        header, *rows = table(costs)
        lines += ["", f"## {workload}", "", markdown_table(header, rows)]
    return "\n".join(lines) + "\n"


def _draw(path: Path, measured: Measured) -> None:
    """Draws step times relative to SGD's: a row for each contender, a point for each workload."""
    names = [name for name in next(iter(measured.values())) if name != "SGD"]
    figure, axis = plt.subplots(figsize=(8, 0.6 * len(names) + 1.4), dpi=150, layout="constrained")
    styles = itertools.cycle(POINTS)
    for number, (workload, costs) in enumerate(measured.items()):
        offset = 0.14 * (number - (len(measured) - 1) / 2)
        shown = [costs[name] for name in names]
        _draw_workload(axis, workload, shown, costs["SGD"], offset, next(styles))
    for ratio, line in ((1.0, "-"), (1.05, "--")):
        axis.axvline(ratio, color="black", lw=0.8, ls=line, zorder=0, label=f"{ratio:.2f}")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    _scale(axis)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    write_figure(path, figure)


def _scale(axis: Axes) -> None:
    # Costs range from a few percent to twenty times as much. Only a logarithm shows both.
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("time of a step, relative to SGD with momentum; median and quartiles of rounds")
    plain(axis)


def _draw_workload(
    axis: Axes,
    workload: str,
    costs: Sequence[Costs],
    sgd: Costs,
    offset: float,
    style: tuple[str, str],
) -> None:
    spread = [np.quantile(ratios(cost.step, sgd.step), (0.25, 0.5, 0.75)) for cost in costs]
    low, middle, high = np.transpose(spread)
    rows, (color, marker) = np.arange(len(costs)) + offset, style
    errors = np.stack([middle - low, high - middle])
    axis.errorbar(middle, rows, xerr=errors, fmt=marker, color=color, ms=5, lw=1.2, label=workload)
