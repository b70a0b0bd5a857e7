"""The benchmark's table in Markdown and its figure."""

import pathlib

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from benchmarks.rare_tokens.comparison import Found, Row
from benchmarks.rare_tokens.contenders import EXPONENTS, TRIALS
from benchmarks.rare_tokens.process import CONTEXT, DECILES, TOKENS, deciles
from benchmarks.rare_tokens.training import BATCH, STEPS
from benchmarks.shared.report import OTHERS, STYLES, markdown_table, plain, write_figure
from benchmarks.shared.trials import at_an_edge, deviation, with_spread

FREQUENT = DECILES // 2
# Those in `STYLES` belong to optimizers.
EXPONENT_STYLES = tuple(zip(OTHERS[1:3], ("v", "P"), strict=True))


def table(found: Found) -> str:
    """One row for each optimizer and one for the true probabilities."""
    header = ["optimizer", "learning rate", "test loss", "frequent", "rarest", "numbers of state"]
    rows = [_cells(row) for row in found.rows]
    least = [found.least[0], found.least[1 : 1 + FREQUENT].mean(), found.least[-1]]
    rows.append(["the true probabilities", "", *(f"{loss:.3f}" for loss in least), "0"])
    return f"{_caption()}\n\n{markdown_table(header, rows)}\n"


def _caption() -> str:
    tenths = deciles()
    return (
        f"Test loss in nats, {TOKENS:,} tokens, a context of {CONTEXT}; {STEPS:,} steps, batches "
        f"of {BATCH}, {TRIALS} learning rates each. *Rarest*: the {(tenths == DECILES - 1).sum()} "
        f"tokens of the last tenth of the text; *frequent*: the {(tenths < FREQUENT).sum()} of "
        f"its first {FREQUENT} tenths, whose mean it is. Means ± standard deviations over seeds."
    )


def _cells(row: Row) -> list[str]:
    edge = " (edge of its grid)" if at_an_edge(row.rate, row.tuning) else ""
    values = row.loss, row.by_decile[:, :FREQUENT].mean(axis=1), row.by_decile[:, -1]
    shown = [with_spread(value, 3) for value in values]
    return [row.name, f"{row.rate:g}{edge}", *shown, f"{row.state_size:,}"]


def draw(path: pathlib.Path, found: Found) -> None:
    """Excess loss in each tenth of the text, in a panel for each optimizer with the factor."""
    members = 1 + len(EXPONENTS)
    peer = next(row for row in found.rows if row.name == "Adam")
    ours = [row for row in found.rows if row is not peer]
    families = [ours[first : first + members] for first in range(0, len(ours), members)]
    figure, axes = plt.subplots(
        1, len(families), figsize=(4.2 * len(families), 3.8), dpi=110, sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis, family in zip(axes[0], families, strict=True):
        _draw(axis, peer, found.least[1:], *STYLES["Adam"])
        plain_style = STYLES[family[0].name.partition(",")[0]]
        for row, style in zip(family, (plain_style, *EXPONENT_STYLES), strict=True):
            _draw(axis, row, found.least[1:], *style)
        axis.set(xticks=range(1, DECILES + 1), xlabel="tenth of the text, rarest tokens last")
        axis.legend(frameon=False, fontsize=8)
        plain(axis)
    axes[0][0].set_ylabel("test loss above the true probabilities'")
    write_figure(path, figure)


def _draw(
    axis: Axes, row: Row, least: Float[np.ndarray, "deciles"], color: str, marker: str
) -> None:
    above = (row.by_decile - least).T
    axis.errorbar(
        range(1, DECILES + 1), above.mean(axis=1), [deviation(each) for each in above],
        fmt=f"{marker}-", ms=4, lw=1.2, color=color, label=row.name,
    )  # fmt: skip
