"""The benchmark's tables and summary in Markdown."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from benchmarks.learning_rate.contenders import DEFAULT_RATE, PEERS
from benchmarks.learning_rate.sweep import RATES, SCALES, Accuracies
from benchmarks.shared.contender import OURS
from benchmarks.shared.report import markdown_table

Nets = Mapping[str, Mapping[str, Accuracies]]
DEFAULT = int(np.argmin(np.abs(np.log(RATES / DEFAULT_RATE))))


class Best(NamedTuple):
    """The best mean over seeds in percent, and its place among the learning rates."""

    accuracy: float
    place: int

    @property
    def at_an_edge(self) -> bool:
        return self.place in (0, len(RATES) - 1)

    def __str__(self) -> str:
        sign = {0: "≤ ", len(RATES) - 1: "≥ "}.get(self.place, "")
        return f"{self.accuracy:.1f} at {sign}{RATES[self.place]:.2g}"


def best(accuracies: Float[np.ndarray, "rates seeds"]) -> Best:
    """The best learning rate. Ties go to the smallest."""
    means = accuracies.mean(axis=-1)
    return Best(float(means.max()), int(means.argmax()))


def markdown(nets: Nets, paper: Mapping[str, Float[np.ndarray, "seeds"]]) -> str:
    """Both tables and the summary."""
    return "\n\n".join([_sweep_table(nets), "\n".join(_derived(nets)), _paper_table(paper)]) + "\n"


def _sweep_table(nets: Nets) -> str:
    names = list(next(iter(nets.values())))
    header = ["net", "scale of the inputs", *names, f"{OURS} at {RATES[DEFAULT]:.2g}"]
    rows = [
        [net, f"{scale:g}", *_cells(found, place)]
        for net, found in nets.items()
        for place, scale in enumerate(SCALES)
    ]
    caption = "Best mean validation accuracy in percent, and its learning rate (≤ and ≥: at an edge"
    return f"{caption} of the range).\n\n{markdown_table(header, rows)}"


def _cells(found: Mapping[str, Accuracies], place: int) -> list[str]:
    cells = [str(best(accuracies[place])) for accuracies in found.values()]
    return [*cells, f"{_at_default(found[OURS][place]):.1f}"]


def _derived(nets: Nets) -> list[str]:
    names = list(next(iter(nets.values())))
    moves = (
        f"{name} " + " and ".join(_decades(found[name]) for found in nets.values())
        for name in names
    )
    own, peers = _shortfalls(nets)
    default = f"- The largest gap from {OURS} at {RATES[DEFAULT]:.2g}"
    return [
        f"- Range of the best learning rate over the input scales, in decades"
        f" ({' and '.join(nets)}): {', '.join(moves)}.",
        _widths(nets, "within a point of its best", lambda means: means >= means.max() - 1),
        _widths(nets, "above 90 %", lambda means: means > 90),
        f"{default} to its own best learning rate: {_largest(own)}.",
        f"{default} to the best peer at its best learning rate: {_largest(peers)}.",
    ]


def _decades(accuracies: Accuracies) -> str:
    found = [best(one_scale) for one_scale in accuracies]
    rates = np.log10([RATES[one.place] for one in found])
    return f"{'≥ ' * any(one.at_an_edge for one in found)}{np.ptp(rates):.1f}"


def _widths(nets: Nets, what: str, good: Callable[[np.ndarray], np.ndarray]) -> str:
    """The longest range of good learning rates in decades, at the worst scale."""
    names = list(next(iter(nets.values())))
    each = (
        f"{name} "
        + " and ".join(
            f"{min(_longest_run(good(one.mean(axis=-1))) for one in found[name]):.1f}"
            for found in nets.values()
        )
        for name in names
    )
    return (
        f"- Longest range of learning rates {what}, in decades, at the worst scale"
        f" ({' and '.join(nets)}): {', '.join(each)}."
    )


def _longest_run(good: Bool[np.ndarray, "rates"]) -> float:
    """The length in decades from the first rate to the last. 0 for one rate or none."""
    lengths, length = [0], 0
    for one in good:
        length = length + 1 if one else 0
        lengths.append(length)
    return max(0, max(lengths) - 1) * float(np.log10(RATES[1] / RATES[0]))


def _shortfalls(nets: Nets) -> tuple[dict[str, float], dict[str, float]]:
    """Points that our default lacks to our own best and to the best peer, by case."""
    own, peers = {}, {}
    for net, found in nets.items():
        for place, scale in enumerate(SCALES):
            ours = found[OURS][place]
            rivals = {name: best(found[name][place]).accuracy for name in PEERS}
            rival = max(rivals, key=rivals.__getitem__)
            case = f"{net}, inputs times {scale:g}"
            own[case] = best(ours).accuracy - _at_default(ours)
            peers[f"{case}, {rival}"] = rivals[rival] - _at_default(ours)
    return own, peers


def _largest(shortfalls: Mapping[str, float]) -> str:
    case = max(shortfalls, key=shortfalls.__getitem__)
    return f"{shortfalls[case]:.1f} points ({case})"


def _at_default(accuracies: Float[np.ndarray, "rates seeds"]) -> float:
    return float(accuracies[DEFAULT].mean())


def _paper_table(paper: Mapping[str, Float[np.ndarray, "seeds"]]) -> str:
    rows = [
        [name, f"{found.mean():.1f}", ", ".join(f"{seed:.1f}" for seed in found)]
        for name, found in paper.items()
    ]
    caption = "The paper's case: four convolutions without normalization, inputs in [0, 16]."
    header = ["optimizer at its learning rate", "validation accuracy (%)", "seed by seed"]
    return f"{caption}\n\n{markdown_table(header, rows)}"
