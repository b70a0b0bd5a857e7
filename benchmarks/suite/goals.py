"""What the default and the best of ours are to reach, each with its number."""

from collections.abc import Mapping

import numpy as np

from benchmarks.shared.contender import OURS
from benchmarks.suite.comparison import (
    Board,
    area,
    best_peer,
    final,
    is_ours,
    peers,
    profile,
    row_of,
    time_to,
    within,
)
from benchmarks.suite.methods import METHODS, PLAIN
from benchmarks.suite.protocol import TUNED, USUAL

MOST_STATE = 0.55  # of Adam's


def goals(found: Mapping[str, Board]) -> str:
    lines = [_untuned(found), _profile(found), *_times(found), *_rare_classes(found), _state(found)]
    return "\n".join(["## Goals", "", *(f"- {line}" for line in lines)])


def _untuned(found: Mapping[str, Board]) -> str:
    close = [
        within(row_of(board[OURS], USUAL), row_of(board[best_peer(board)], TUNED))
        for board in found.values()
    ]
    share = f"{sum(close)} of {len(close)} workloads ({np.mean(close):.0%})"
    return (
        f"Untuned, within a point (3 % of the loss) of the best tuned peer: {share}; goal 80 %: "
        f"{_met(np.mean(close) >= 0.8)}."
    )


def _profile(found: Mapping[str, Board]) -> str:
    areas = {name: area(ratios) for name, ratios in profile(found, USUAL).items()}
    others = {name: each for name, each in areas.items() if not is_ours(name)}
    best = max(others, key=others.__getitem__)
    return (
        f"Area of the profile at usual rates: {areas[OURS]:.2f}, best peer {best} "
        f"{others[best]:.2f}; goal more than every peer: {_met(areas[OURS] > others[best])}."
    )


def _times(found: Mapping[str, Board]) -> list[str]:
    """Of the time that the best tuned peer takes to its target."""
    lines = []
    for kind, bound, chosen in ((TUNED, 0.7, _best_of_ours), (USUAL, 1.0, lambda board: OURS)):
        ratios = [
            time_to(board, chosen(board), kind) / time_to(board, best_peer(board), TUNED)
            for board in found.values()
        ]
        reached = sum(ratio <= bound for ratio in ratios)
        who = "the best of ours, tuned" if kind == TUNED else "the default, untuned"
        lines.append(
            f"Best peer's score (less what does not count) in at most {bound} of its time, {who}: "
            f"{reached} of {len(ratios)} workloads; goal most: {_met(reached > len(ratios) / 2)}."
        )
    return lines


def _best_of_ours(board: Board) -> str:
    """By validation."""
    ours = [name for name in board if is_ours(name)]
    return max(ours, key=lambda name: float(row_of(board[name], TUNED).scores[-1].mean()))


def _rare_classes(found: Mapping[str, Board]) -> list[str]:
    lines = []
    for workload, board in found.items():
        if all(row.method == PLAIN for row in board[OURS].rows):
            continue
        ours, others = _best_of_ours(board), peers(board)
        found_with = {m: row_of(board[ours], TUNED, method=m) for m in METHODS}
        method = max(METHODS, key=lambda m, rows=found_with: float(rows[m].scores[-1].mean()))
        mine = final(found_with[method])
        plain = {name: mine - final(row_of(board[name], TUNED)) for name in others}
        same = max(final(row_of(board[name], TUNED, method=method)) for name in others)
        gains = ", ".join(f"{gain:+.1f} over plain {name}" for name, gain in plain.items())
        lines.append(
            f"{workload}: {ours} with {method}, {mine:.1f}: {gains}; {mine - same:+.1f} over the "
            "best peer with the same method (goals +6.6 over SGD, +4.8 over Adam, +1)."
        )
    return lines


def _state(found: Mapping[str, Board]) -> str:
    shares = [
        board[OURS].speed.state / board["AdamW"].speed.state
        for board in found.values()
        if "AdamW" in board
    ]
    if not shares:
        return "State: Adam was not run."
    return (
        f"State over Adam's: {min(shares):.2f} to {max(shares):.2f}; goal {MOST_STATE}: "
        f"{_met(max(shares) <= MOST_STATE)}."
    )


def _met(is_met: bool | np.bool_) -> str:
    return "**met**" if is_met else "**not met**"
