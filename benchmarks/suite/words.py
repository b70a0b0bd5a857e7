"""The results in plain words: wins and losses, which to choose, the rows of the project page."""

from collections.abc import Mapping

import numpy as np

from benchmarks.shared.contender import OURS
from benchmarks.shared.report import markdown_table
from benchmarks.shared.trials import with_spread
from benchmarks.suite.comparison import (
    KINDS,
    Board,
    area,
    best_peer,
    difference,
    ours,
    profile,
    row_of,
    tested,
    tolerance,
)
from benchmarks.suite.methods import METHODS, PLAIN
from benchmarks.suite.protocol import TUNED, Row

# The claims of the authors' page for SGD, Adam and INSGD, and the workload that comes closest.
CLAIMS = {
    "CVM stages": ("82.5 / 84.3 / 89.1", None),
    "CIFAR-10 (imbalanced)": ("76.2 / 78.9 / 81.7", "CIFAR-10, imbalance 10"),
    "Medical X-rays": ("73.1 / 75.6 / 79.2", "COVID X-rays"),
}
MEANINGS = (
    "*Tied*: within a point (3 % of the loss). *Won* and *lost*: further apart, and by more than "
    "the 95 % interval over paired seeds. *Unclear*: further apart, but within that interval, so "
    "the seeds cannot tell. After first runs we changed INSGD by validation scores: we doubled its "
    "usual rate with a cosine, with its grid, and slowed the gains and shifts of norms. AdamW's "
    "grid moved up by one place, because its best rate was above its usual one on every workload. "
    "The other peers and their grids stayed."
)
ASKED = ("SGD", "AdamW", OURS)
OUTCOMES = ("won", "tied", "unclear", "lost")


def in_words(found: Mapping[str, Board]) -> str:
    parts = ["## In plain words", "", MEANINGS, "", *_verdicts(found), "", *_choices(found)]
    return "\n".join([*parts, "", _claims(found)])


def outcome(mine: Row, rival: Row) -> str:
    """A tie is within a point (3 %). Beyond it, the 95 % interval makes a gap unclear or not."""
    gap = difference(mine, rival)
    if abs(gap.mean) <= tolerance(mine):
        return "tied"
    if abs(gap.mean) <= np.nan_to_num(gap.half):
        return "unclear"
    return "won" if gap.mean > 0 else "lost"


def _verdicts(found: Mapping[str, Board]) -> list[str]:
    """Of each of ours against the best tuned peer, on test data."""
    lines = []
    names = dict.fromkeys(name for board in found.values() for name in ours(board))
    for name in names:
        for kind in KINDS:
            outcomes = {
                workload: outcome(row_of(board[name], kind), row_of(board[best_peer(board)], TUNED))
                for workload, board in found.items()
                if name in board
            }
            counts = [f"{each} {list(outcomes.values()).count(each)}" for each in OUTCOMES]
            lost = [workload for workload, each in outcomes.items() if each == "lost"]
            behind = f" Behind on: {'; '.join(lost)}." if lost else ""
            lines.append(
                f"- **{name}, {kind} rate**, against the best tuned peer: "
                f"{', '.join(counts)}.{behind}"
            )
    return lines


def _choices(found: Mapping[str, Board]) -> list[str]:
    """The largest area of the profile, and the best method for rare classes."""
    lines = []
    for kind in KINDS:
        areas = {name: area(ratios) for name, ratios in profile(found, kind).items()}
        first, second = sorted(areas, key=areas.__getitem__, reverse=True)[:2]
        lines.append(
            f"- At {kind} rates **{first}** has the largest area of the profile "
            f"({areas[first]:.2f}), then {second} ({areas[second]:.2f})."
        )
    gains: dict[str, list[float]] = {method: [] for method in METHODS if method != PLAIN}
    for board in found.values():
        for result in board.values():
            rows = {row.method: row for row in result.rows if row.kind == TUNED}
            for method in set(gains) & set(rows):
                plain = row_of(result, TUNED)
                gains[method].append(float((tested(rows[method]) - tested(plain)).mean()))
    if any(gains.values()):
        means = {method: float(np.mean(each)) for method, each in gains.items() if each}
        listed = ", ".join(f"{method} {mean:+.1f}" for method, mean in means.items())
        lines.append(f"- Mean gain over plain cross-entropy where classes are rare: {listed}.")
    return lines


def _claims(found: Mapping[str, Board]) -> str:
    rows = []
    for claim, (numbers, workload) in CLAIMS.items():
        board = found.get(workload or "", {})
        shown = "not public: its owner can run `--data FOLDER`" if workload is None else "not run"
        if all(name in board for name in ASKED):
            scores = (with_spread(tested(row_of(board[name], TUNED)), 1) for name in ASKED)
            shown = f"{' / '.join(scores)} ({workload})"
        rows.append([claim, numbers, shown])
    caption = (
        "The project page claims these accuracies for SGD / Adam / INSGD, without the imbalance, "
        "network, seeds or split. Ours are balanced test accuracies of small networks, tuned, "
        "without a method for rare classes. Compare the order, not the numbers."
    )
    table = markdown_table(["row of the page", "claimed", "measured here"], rows)
    return f"### The project page\n\n{caption}\n\n{table}"
