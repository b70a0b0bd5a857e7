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

# Okabe and Ito's palette: tells the lines apart for color-blind readers too.
COLORS = {"SGD": "#0072B2", "Adam": "#E69F00", "INSGD": "#009E73"}
# By factors: the line of a curve, and how dark a bar is.
STYLES = {
    (): ("--", 0.35),
    ("class",): ("-", 1.0),
    ("history",): (":", 0.55),
    ("class", "history"): ("-.", 0.8),
}


@dataclass(frozen=True)
class Result:
    """What is known about one optimizer at the end. Scores are fractions, one entry a seed."""

    name: str
    optimizer: str
    factors: tuple[str, ...]
    rate: float
    search: dict[float, float]  # validation balanced accuracy of every learning rate tried
    curves: Float[np.ndarray, "seeds checkpoints"]  # validation balanced accuracy
    accuracy: Float[np.ndarray, "seeds"]  # this and what follows: on the test split
    recalls: Float[np.ndarray, "seeds classes"]
    seconds: Float[np.ndarray, "seeds"]
    state_size: int

    @property
    def balanced_accuracy(self) -> Float[np.ndarray, "seeds"]:
        return self.recalls.mean(axis=1)

    @property
    def worst_recall(self) -> Float[np.ndarray, "seeds"]:
        return self.recalls.min(axis=1)

    @property
    def rate_is_at_an_edge(self) -> bool:
        return len(self.search) > 1 and self.rate in (min(self.search), max(self.search))


def table(results: list[Result]) -> str:
    """Test scores in percent, mean ± standard deviation over the seeds."""
    header = f"{'':24}{'accuracy':>13}{'balanced acc.':>15}{'worst recall':>15}"
    lines = [header + f"{'s per run':>11}{'learning rate':>15}{'state size':>12}"]
    for result in results:
        scores = (result.accuracy, result.balanced_accuracy, result.worst_recall)
        cells = (f"{100 * s.mean():.1f} ± {_spread(s):.1f}" for s in scores)
        accuracy, balanced, worst = cells
        lines.append(
            f"{result.name:24}{accuracy:>13}{balanced:>15}{worst:>15}"
            f"{result.seconds.min():>11.2f}{result.rate:>15g}{result.state_size:>12,}"
        )
    return "\n".join(lines)


def write_json(path: Path, settings: dict[str, Any], results: list[Result]) -> None:
    """Everything the table and the figure show, seed by seed, and what it was made with."""
    report = {
        "settings": settings,
        "versions": {"jax": jax.__version__, "optax": optax.__version__},
        "device": jax.devices()[0].device_kind,
        "results": [
            {
                "optimizer": result.name,
                "learning_rate": result.rate,
                "validation_balanced_accuracy_by_rate": result.search,
                "test_accuracy": result.accuracy.tolist(),
                "test_balanced_accuracy": result.balanced_accuracy.tolist(),
                "test_worst_recall": result.worst_recall.tolist(),
                "test_recall_by_digit": result.recalls.tolist(),
                "validation_curves": result.curves.tolist(),
                "seconds_per_run": result.seconds.tolist(),
                "optimizer_state_size": result.state_size,
            }
            for result in results
        ],
    }
    path.write_text(json.dumps(report, indent=2) + "\n")


def draw(path: Path, title: str, checkpoints: list[int], counts: list[int], results: list[Result]):
    """Convergence on the left, the recall of every digit on the right."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(13, 5), width_ratios=(5, 7), layout="constrained"
    )
    _draw_curves(left, checkpoints, results)
    _draw_recalls(right, counts, results)
    figure.suptitle(title)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=-(-len(results) // 2)
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_curves(axes: Axes, checkpoints: list[int], results: list[Result]) -> None:
    for result in results:
        color, (line, _) = COLORS[result.optimizer], STYLES[result.factors]
        curves = 100 * result.curves
        label = f"{result.name} (learning rate {result.rate:g})"
        median = np.median(curves, axis=0)
        axes.plot(checkpoints, median, line, color=color, lw=2, label=label)
        axes.fill_between(
            checkpoints, curves.min(axis=0), curves.max(axis=0), color=color, alpha=0.12, lw=0
        )
    axes.set(title="Convergence: median and range over seeds", xlabel="training step")
    axes.set(ylabel="validation balanced accuracy (%)", ylim=(0, 100), xlim=(0, checkpoints[-1]))
    axes.grid(alpha=0.3)


def _draw_recalls(axes: Axes, counts: list[int], results: list[Result]) -> None:
    width = 0.8 / len(results)
    for place, result in enumerate(results):
        color, (_, shade) = COLORS[result.optimizer], STYLES[result.factors]
        recalls = 100 * result.recalls
        mean = recalls.mean(axis=0)
        reach = np.stack([mean - recalls.min(axis=0), recalls.max(axis=0) - mean])
        x = np.arange(len(counts)) + (place - (len(results) - 1) / 2) * width
        axes.bar(x, mean, width, color=color, alpha=shade)
        axes.errorbar(x, mean, reach, fmt="none", ecolor="black", elinewidth=0.6, capsize=1)
    axes.set_xticks(range(len(counts)), [f"{c}\nn = {n}" for c, n in enumerate(counts)])
    axes.set(title="Recall of every digit: mean and range over seeds", ylim=(0, 105))
    axes.set(xlabel="digit and its number of training examples", ylabel="test recall (%)")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _spread(scores: Float[np.ndarray, "seeds"]) -> float:
    """The standard deviation in percentage points; of one seed there is none, shown as nan."""
    return 100 * float(scores.std(ddof=1)) if len(scores) > 1 else float("nan")
