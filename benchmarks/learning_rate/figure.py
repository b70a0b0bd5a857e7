"""The figure: accuracy by learning rate. Rows are networks and columns are input scales."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from benchmarks.learning_rate.contenders import DEFAULT_RATE
from benchmarks.learning_rate.sweep import RATES, SCALES
from benchmarks.learning_rate.table import DEFAULT, Nets
from benchmarks.shared.contender import OURS
from benchmarks.shared.report import OTHERS, STYLES, plain, write_figure

LINES = STYLES | {"INSGD Diagonal": (OTHERS[0], "v")}


def draw(path: Path, nets: Nets) -> None:
    """Draws the means over the seeds."""
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
    figure.legend(*handles, loc="outside lower center", ncols=len(LINES) + 1, frameon=False)
    write_figure(path, figure)


def _draw_case(axis: Axes, means: dict[str, np.ndarray]) -> None:
    for name, mean in means.items():
        (color, marker), ours = LINES[name], name == OURS
        width, order = (2.4, 3) if ours else (1.3, 2)
        axis.plot(RATES, mean, marker=marker, ms=4, color=color, lw=width, zorder=order, label=name)
    axis.axvline(DEFAULT_RATE, color="black", ls=":", lw=1)
    axis.plot(
        DEFAULT_RATE, means[OURS][DEFAULT], "*", color="black", ms=13, zorder=4, ls="none",
        label=f"{OURS} at its default {DEFAULT_RATE:g}",
    )  # fmt: skip
    axis.set(xscale="log", ylim=(0, 102))
    plain(axis)
