"""The table, the figure and the JSON file of the digits example."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
import optax
from jaxtyping import Float

matplotlib.use("Agg")  # writes files, needs no screen
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from digits_task import Scores
from digits_training import Contender

# Okabe and Ito's palette: tells the lines apart for color-blind readers too.
COLORS = {"SGD": "#0072B2", "Adam": "#E69F00", "Muon": "#CC79A7", "INSGD": "#009E73"}
# By factors: the line of a curve, and its text in the legend.
STYLES = {
    (): (":", "cross-entropy"),
    ("class",): ("-", "with class factor"),
    ("history",): ("-.", "with history factor"),
    ("class", "history"): ("--", "with both factors"),
}
NUM_RARE = 4
GRAY = "0.35"


@dataclass(frozen=True)
class Result:
    """One optimizer with one schedule, at its default rate and at the best of those tried."""

    contender: Contender
    schedule: str
    search: dict[float, float]  # validation balanced accuracy of every learning rate tried
    untuned: Scores
    tuned: Scores

    @property
    def rate_is_at_an_edge(self) -> bool:
        edges = min(self.search), max(self.search)
        return len(self.search) > 1 and self.tuned.rate in edges

    @property
    def color(self) -> str:
        return COLORS[self.contender.optimizer]

    @property
    def line(self) -> str:
        return STYLES[self.contender.factors][0]

    def cells(self) -> list[str]:
        return [
            self.schedule,
            self.contender.name,
            *_cells(self.untuned),
            *_cells(self.tuned),
            percent(self.tuned.accuracy),
            f"{self.contender.state_size():,}",
        ]


HEADER = (
    "schedule | optimizer | untuned rate | balanced accuracy | worst recall"
    " | tuned rate | balanced accuracy | worst recall | accuracy | state"
).split(" | ")


def percent(scores: Float[np.ndarray, "seeds"]) -> str:
    """Mean ± standard deviation; one seed has no deviation.

    >>> percent(np.array([0.5, 0.6])), percent(np.array([0.5]))
    ('55.0 ± 7.1', '50.0')
    """
    mean = f"{100 * scores.mean():.1f}"
    return f"{mean} ± {100 * scores.std(ddof=1):.1f}" if len(scores) > 1 else mean


def _cells(scores: Scores) -> list[str]:
    return [f"{scores.rate:g}", percent(scores.balanced_accuracy), percent(scores.worst_recall)]


def table(results: list[Result]) -> str:
    """Test scores in percent, as Markdown with aligned columns: text left, numbers right."""
    rows = [HEADER, *(result.cells() for result in results)]
    columns = []
    for place, cells in enumerate(zip(*rows, strict=True)):
        width = max(map(len, cells))
        rule, side = ("-" * width, "<") if place < 2 else ("-" * (width - 1) + ":", ">")
        columns.append([f"{cell:{side}{width}}" for cell in (cells[0], rule, *cells[1:])])
    return "\n".join(f"| {' | '.join(row)} |" for row in zip(*columns, strict=True))


def write_json(path: Path, settings: dict[str, Any], results: list[Result]) -> None:
    """Everything the table and the figure show, seed by seed, and the settings."""
    report = {
        "settings": settings,
        "versions": {"jax": jax.__version__, "optax": optax.__version__},
        "device": jax.devices()[0].device_kind,
        "results": [
            {
                "optimizer": result.contender.name,
                "schedule": result.schedule,
                "optimizer_state_size": result.contender.state_size(),
                "validation_balanced_accuracy_by_rate": result.search,
                "untuned": _numbers(result.untuned),
                "tuned": _numbers(result.tuned),
            }
            for result in results
        ],
    }
    path.write_text(json.dumps(report, indent=2) + "\n")


def _numbers(scores: Scores) -> dict[str, Any]:
    return {
        "learning_rate": scores.rate,
        "test_accuracy": scores.accuracy.tolist(),
        "test_balanced_accuracy": scores.balanced_accuracy.tolist(),
        "test_worst_recall": scores.worst_recall.tolist(),
        "test_recall_by_digit": scores.recalls.tolist(),
        "validation_curves": scores.curves.tolist(),
    }


def draw(path: Path, title: str, checkpoints: list[int], counts: list[int], results: list[Result]):
    """A column for each schedule: convergence, and below it the recall of the rarest digits."""
    schedules = {"constant": "constant learning rate", "cosine": "cosine to zero"}
    figure, axes = plt.subplots(
        2, len(schedules), figsize=(12, 9), sharex="row", sharey="row", layout="constrained"
    )
    for (above, below), (schedule, text) in zip(axes.T, schedules.items(), strict=True):
        shown = [result for result in results if result.schedule == schedule]
        above.set_title(f"Convergence, {text}, tuned")
        _draw_curves(above, checkpoints, shown)
        below.set_title(f"Rare digits, {text}")
        _draw_rare(below, shown)
    axes[0, 0].set(ylabel="validation balanced accuracy (%), mean", ylim=_zoom(results))
    *most, rarest = map(str, counts[-NUM_RARE:])
    rare = f"The {NUM_RARE} rarest digits have {', '.join(most)} and {rarest} training examples"
    figure.suptitle(f"{title}\n{rare}")
    figure.legend(handles=_legend(results), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_curves(axes: Axes, checkpoints: list[int], results: list[Result]) -> None:
    for result in results:
        mean = 100 * result.tuned.curves.mean(axis=0)
        axes.plot(checkpoints, mean, result.line, color=result.color, lw=1.8)
    axes.set(xlabel="training step", xlim=(0, checkpoints[-1]))
    axes.grid(alpha=0.3)


def _zoom(results: list[Result]) -> tuple[float, float]:
    """All curves start at chance; they tell the optimizers apart after the first fifth."""
    curves = 100 * np.stack([result.tuned.curves.mean(axis=0) for result in results])
    later = curves[:, curves.shape[1] // 5 :]
    return later.min() - 2, later.max() + 2


def _draw_rare(axes: Axes, results: list[Result]) -> None:
    """A hollow mark for the untuned rate, a full one for the tuned rate; lines are ranges."""
    for place, result in enumerate(results):
        marks = ((result.untuned, -0.15, "white"), (result.tuned, 0.15, result.color))
        for scores, shift, face in marks:
            recall, height = 100 * scores.recalls[:, -NUM_RARE:].mean(axis=1), place + shift
            axes.plot((recall.min(), recall.max()), (height, height), color=result.color, lw=1.2)
            axes.plot(recall.mean(), height, "o", color=result.color, mfc=face, ms=8)
    axes.set_yticks(range(len(results)), [result.contender.name for result in results])
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.set_xlabel(f"test recall (%) of the {NUM_RARE} rarest digits, mean and range over seeds")
    axes.grid(axis="x", alpha=0.3)


def _legend(results: list[Result]) -> list[Line2D]:
    """Colors are optimizers, lines are factors, marks are learning rates."""
    optimizers = dict.fromkeys(result.contender.optimizer for result in results)
    factors = dict.fromkeys(result.contender.factors for result in results)
    marks = {"untuned: the default rate": "white", "tuned on validation images": GRAY}
    keys: list[dict[str, Any]] = [
        *({"color": COLORS[name], "lw": 5, "label": name} for name in optimizers),
        *({"ls": STYLES[each][0], "label": STYLES[each][1]} for each in factors),
        *({"ls": "", "marker": "o", "mfc": face, "label": text} for text, face in marks.items()),
    ]
    return [Line2D([], [], **({"color": GRAY, "ms": 8} | key)) for key in keys]
