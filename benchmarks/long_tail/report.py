"""The table and the figure of the long-tail benchmark."""

import pathlib
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.shared.trials import at_an_edge, with_spread

# By number of epochs, by optimizer: a curve for every seed.
Curves = dict[int, dict[str, list[dict[str, Any]]]]


def table(tuning: dict[str, dict[float, float]], rates: dict[str, float], curves: Curves) -> str:
    """A row for every optimizer and length; times are ratios to SGD's at the full length."""
    full = max(curves)
    base = _mean(curves[full]["SGD"], "seconds") if "SGD" in curves[full] else 1.0
    header = "epochs | optimizer | learning rate | validation loss | test accuracy, % | time"
    lines = [f"| {header} |", "|" + "---|" * 6]
    for epochs, by_name in curves.items():
        for name, runs in by_name.items():
            edge = " (edge of its grid)" if at_an_edge(rates[name], tuning[name]) else ""
            loss = with_spread(_last(runs, "validation_loss"), 3)
            accuracy = with_spread(_last(runs, "test_accuracy"), 1)
            time = _mean(runs, "seconds") / base
            lines.append(
                f"| {epochs} | {name} | {rates[name]:g}{edge} | {loss} | {accuracy} | {time:.2f} |"
            )
    return "\n".join([*lines, "", *_half_time(curves)]) + "\n"


def _half_time(curves: Curves) -> list[str]:
    """How long each takes, at half the epochs, to be where the best classic one is at the end."""
    half, full = min(curves), max(curves)
    classic = [name for name in ("SGD", "AdamW") if name in curves[full]]
    if not classic or half == full:
        return []
    best = min(classic, key=lambda name: _mean(curves[full][name], "validation_loss"))
    target, seconds = (_mean(curves[full][best], key) for key in ("validation_loss", "seconds"))
    lines = [f"{best} is the better of {classic}, with {target:.4f} after {full} epochs.", ""]
    for name, runs in curves[half].items():
        loss, time = _mean(runs, "validation_loss"), _mean(runs, "seconds") / seconds
        verdict = "reaches it" if loss <= target else "does not reach it"
        lines.append(
            f"- {name} with {half} epochs {verdict}: {loss:.4f} in {time:.2f} of its time."
        )
    return lines


def draw(curves: Curves, path: pathlib.Path) -> None:
    """Validation loss against seconds, the mean over seeds; the half-length runs dashed."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for epochs, by_name in curves.items():
        for color, (name, runs) in enumerate(by_name.items()):
            seconds = np.mean([run["seconds"] for run in runs], axis=0)
            losses = np.mean([run["validation_loss"] for run in runs], axis=0)
            style = "-" if epochs == max(curves) else "--"
            label = name if style == "-" else None
            axes.plot(seconds, losses, style, color=f"C{color}", label=label)
    axes.set(xlabel="seconds of training", ylabel="validation loss (balanced classes)")
    axes.set_title("CIFAR-10 at 16 × 16, imbalance 100; dashed: half the epochs", loc="left")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _last(runs: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([np.ravel(run[key])[-1] for run in runs])


def _mean(runs: list[dict[str, Any]], key: str) -> float:
    return float(_last(runs, key).mean())
