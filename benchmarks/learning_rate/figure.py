"""The figure: accuracy against the learning rate, a row for each net, a column for each scale."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # writes files, needs no screen
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.learning_rate.contenders import DEFAULT_RATE, OURS
from benchmarks.learning_rate.sweep import RATES, SCALES
from benchmarks.learning_rate.table import DEFAULT, Nets

# Okabe and Ito's palette, with markers of their own: for color-blind readers and for print.
STYLES = (("#E69F00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#56B4E9", "v"), ("#0072B2", "o"))


def write_figure(path: Path, nets: Nets) -> None:
    figure = draw(nets)
    # Without the version of matplotlib the same picture is the same file.
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def draw(nets: Nets) -> Figure:
    """Means over the seeds."""
    figure, axes = plt.subplots(
        len(nets), len(SCALES), figsize=(14, 6), dpi=110, sharex=True, sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for row, (net, found) in zip(axes, nets.items(), strict=True):
        for place, (axis, scale) in enumerate(zip(row, SCALES, strict=True)):
            means = {name: each[place].mean(axis=-1) for name, each in found.items()}
            _draw_case(axis, means)
            axis.set_title(f"{net}, inputs times {scale:g}", fontsize=10)
        row[0].set_ylabel("validation accuracy (%)")
    for axis in axes[-1]:
        axis.set_xlabel("learning rate")
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(STYLES) + 1, frameon=False)
    return figure


def _draw_case(axis: Axes, means: dict[str, np.ndarray]) -> None:
    for (name, mean), (color, marker) in zip(means.items(), STYLES, strict=True):
        ours = name == OURS
        width, order = (2.4, 3) if ours else (1.3, 2)
        axis.plot(RATES, mean, marker=marker, ms=4, color=color, lw=width, zorder=order, label=name)
    axis.axvline(DEFAULT_RATE, color="black", ls=":", lw=1)
    axis.plot(
        DEFAULT_RATE, means[OURS][DEFAULT], "*", color="black", ms=13, zorder=4, ls="none",
        label=f"{OURS} at its default {DEFAULT_RATE:g}",
    )  # fmt: skip
    axis.set(xscale="log", ylim=(0, 102))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.6)
