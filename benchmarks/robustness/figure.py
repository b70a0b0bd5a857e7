"""The figure: a heat map of the gain over the best peer in every case."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from benchmarks.robustness.comparison import Case, verdict
from benchmarks.shared.contender import OURS
from benchmarks.shared.report import write_figure

DARKEST = 4.0  # tolerances


def draw(path: Path, cases: list[Case]) -> None:
    """Draws a panel for each schedule. Rows are networks and columns are batch sizes."""
    schedules = list(dict.fromkeys(case.schedule for case in cases))
    nets = list(dict.fromkeys(case.net for case in cases))
    batches = sorted({case.batch for case in cases})
    figure, axes = plt.subplots(
        1, len(schedules), figsize=(1.5 + 3.6 * len(schedules), 1.6 + 0.42 * len(nets)), dpi=120,
        sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis, schedule in zip(axes[0], schedules, strict=True):
        here = [case for case in cases if case.schedule == schedule]
        image = _panel(axis, here, nets, batches)
        axis.set(title=f"{schedule} learning rate", xlabel="batch")
    figure.colorbar(image, ax=axes, label="gain / tolerance", shrink=0.8)
    figure.suptitle(
        f"{OURS} at its default against the best peer at its best of three rates\n"
        "points of accuracy, or percent of the loss; bold: behind; ✗: diverged", fontsize=9,
    )  # fmt: skip
    write_figure(path, figure)


def _panel(axis: Axes, cases: list[Case], nets: list[str], batches: list[int]) -> AxesImage:
    shades = np.full((len(nets), len(batches)), np.nan)
    for case in cases:
        found = verdict(case, OURS)
        row, column = nets.index(case.net), batches.index(case.batch)
        diverged = case.diverged_at_default(OURS)
        shade = found.gain / found.tolerance
        shades[row, column] = -DARKEST if diverged else shade
        axis.text(
            column, row, f"{found.gain:+.1f}{' ✗' * diverged}", ha="center", va="center",
            fontsize=8, weight="bold" if found.outcome == "loss" else "normal",
            color="white" if abs(shades[row, column]) > 0.7 * DARKEST else "black",
        )  # fmt: skip
    axis.set_xticks(range(len(batches)), [str(batch) for batch in batches])
    axis.set_yticks(range(len(nets)), nets)
    axis.spines[:].set_visible(False)
    return axis.imshow(shades, cmap="RdBu", vmin=-DARKEST, vmax=DARKEST, aspect="auto")
