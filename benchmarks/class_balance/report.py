"""The tables of the benchmark and what follows from them, as markdown."""

import numpy as np
from jaxtyping import Float

from benchmarks.class_balance.comparison import Row
from benchmarks.class_balance.contenders import OURS
from benchmarks.class_balance.data import Task
from benchmarks.shared.trials import at_an_edge, deviation, with_spread

PARTS = ("head", "middle", "tail")


def section(task: Task, rows: list[Row]) -> str:
    """A data set's table, and our best row beside every peer's.

    A star marks a learning rate at the edge of those that were tried.
    """
    counts = zip(task.classes, task.counts, strict=True)
    sizes = ", ".join(f"{name} {count}" for name, count in counts)
    title = f"## {task.name}\n\n{task.about}. Training images: {sizes}."
    how = f"{task.epochs} epochs, batches of {task.batch}; recalls on test images in percent."
    return "\n\n".join([f"{title} {how}", _table(task, rows), *_differences(rows)]) + "\n"


def balanced_accuracy(recalls: Float[np.ndarray, "seeds classes"]) -> Float[np.ndarray, "seeds"]:
    return recalls.mean(axis=1)


def worst_recall(recalls: Float[np.ndarray, "seeds classes"]) -> Float[np.ndarray, "seeds"]:
    return recalls.min(axis=1)


def _table(task: Task, rows: list[Row]) -> str:
    parts = _parts(task)
    header = ["optimizer", "loss", "learning rate", "balanced accuracy", "worst class", *parts]
    lines = [header, ["---"] * len(header), *(_cells(row, parts) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Row, parts: dict[str, list[int]]) -> list[str]:
    tuned = zip(row.rates, row.tuning, strict=True)
    rates = [f"{rate:.2g}{'*' if at_an_edge(rate, tried) else ''}" for rate, tried in tuned]
    values = [
        balanced_accuracy(row.test),
        worst_recall(row.test),
        *(row.test[:, classes].mean(axis=1) for classes in parts.values()),
    ]
    return [row.optimizer, row.loss, ", ".join(rates), *(with_spread(value, 1) for value in values)]


def _parts(task: Task) -> dict[str, list[int]]:
    """Thirds of the classes, the most frequent first; single classes where there are few."""
    order = sorted(range(len(task.classes)), key=lambda label: -task.counts[label])
    if len(order) <= len(PARTS):
        return {task.classes[label]: [label] for label in order}
    thirds = np.array_split(order, len(PARTS))
    return {part: third.tolist() for part, third in zip(PARTS, thirds, strict=True)}


def _differences(rows: list[Row]) -> list[str]:
    """Our row with the best validation against every peer's; nothing without seeds to compare."""
    ours = [row for row in rows if row.optimizer in OURS]
    peers = [row for row in rows if row.optimizer not in OURS]
    if not ours or len(ours[0].test) < 2:
        return []
    best = max(ours, key=lambda row: float(row.validation.mean()))
    title = f"{best.name}, our best on validation images, minus each peer, in points of balanced"
    lines = [_difference(best, peer) for peer in peers]
    return [f"{title} test accuracy:", "\n".join(lines)]


def _difference(ours: Row, peer: Row) -> str:
    """Paired: a seed has the same weights, batches and images for both."""
    gaps = balanced_accuracy(ours.test) - balanced_accuracy(peer.test)
    verdict = "more than" if abs(gaps.mean()) > deviation(gaps) else "within"
    spread = with_spread(gaps, 1) if gaps.mean() < 0 else f"+{with_spread(gaps, 1)}"
    return f"- {peer.name}: {spread}, {verdict} the spread over the seeds"
