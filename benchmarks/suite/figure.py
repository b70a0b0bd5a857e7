"""The figure: performance profiles at tuned and at usual rates."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.shared.report import plain, style, write_figure
from benchmarks.suite.comparison import KINDS, SLOWEST, Board, profile


def draw(path: Path, found: Mapping[str, Board]) -> None:
    figure, axes = plt.subplots(
        1, len(KINDS), figsize=(9, 3.6), dpi=120, sharey=True, layout="constrained"
    )
    for axis, kind in zip(axes, KINDS, strict=True):
        for name, ratios in profile(found, kind).items():
            factors = np.linspace(1, SLOWEST, 200)
            share = [100 * np.mean(ratios <= factor) for factor in factors]
            color, line = style(name)
            axis.step(factors, share, where="post", color=color, linestyle=line, label=name)
        axis.set(title=f"{kind} learning rates", xlabel="time / that of the fastest")
        axis.set(xlim=(1, SLOWEST), ylim=(0, 103))
        plain(axis)
    axes[0].set_ylabel(f"share of {len(found)} workloads (%)")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right center", frameon=False, fontsize=8)
    write_figure(path, figure)
