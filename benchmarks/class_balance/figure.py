"""The figure: a column for each data set, balanced accuracy above the worst class's recall."""

import pathlib
from collections.abc import Callable

import matplotlib
import numpy as np

matplotlib.use("Agg")  # writes files, needs no screen
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.class_balance.comparison import Row
from benchmarks.class_balance.contenders import CLASS_AND_HISTORY, LOSSES, contenders
from benchmarks.class_balance.report import balanced_accuracy, worst_recall
from benchmarks.shared.trials import deviation

# Okabe and Ito's palette, with markers of their own: for color-blind readers and for print.
STYLES = (
    ("#E69F00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#0072B2", "o"), ("#56B4E9", "v")
)  # fmt: skip
MEASURES = {
    "balanced accuracy (%)": balanced_accuracy,
    "recall of the worst class (%)": worst_recall,
}


def write_figure(path: pathlib.Path, found: dict[str, list[Row]]) -> None:
    """Means over the seeds, with their standard deviations."""
    figure, axes = plt.subplots(
        len(MEASURES), len(found), figsize=(4.2 * len(found), 6), dpi=110, sharex=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for column, (name, rows) in zip(axes.T, found.items(), strict=True):
        column[0].set_title(name, fontsize=10)
        for axis, measure in zip(column, MEASURES.values(), strict=True):
            _draw(axis, rows, measure)
    for row, label in zip(axes, MEASURES, strict=True):
        row[0].set_ylabel(label)
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(STYLES), frameon=False)
    # Without the version of matplotlib the same picture is the same file.
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _draw(axis: Axes, rows: list[Row], measure: Callable[[np.ndarray], np.ndarray]) -> None:
    losses = [*LOSSES, *CLASS_AND_HISTORY]
    for place, (optimizer, (color, marker)) in enumerate(zip(contenders(), STYLES, strict=True)):
        shown = [row for row in rows if row.optimizer == optimizer]
        values = [measure(row.test) for row in shown]
        axis.errorbar(
            [losses.index(row.loss) + 0.14 * (place - 2) for row in shown],
            [float(each.mean()) for each in values], [deviation(each) for each in values],
            fmt=marker, ms=5, lw=1.2, color=color, label=optimizer,
        )  # fmt: skip
    axis.set_xticks(range(len(losses)), losses, rotation=30, ha="right", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25, linewidth=0.6)
