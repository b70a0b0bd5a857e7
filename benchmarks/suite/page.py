"""The page: goals, the profile, and every workload."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.shared.contender import OURS
from benchmarks.shared.report import markdown_table
from benchmarks.shared.schedules import SCHEDULES
from benchmarks.shared.trials import at_an_edge, with_spread
from benchmarks.suite.comparison import (
    KINDS,
    Board,
    area,
    best_peer,
    difference,
    diverged,
    is_text,
    peers,
    profile,
    row_of,
    step_ratio,
    steps_to,
    tested,
    time_to,
)
from benchmarks.suite.contenders import MAIN
from benchmarks.suite.figure import draw
from benchmarks.suite.goals import goals
from benchmarks.suite.methods import METHODS, PLAIN
from benchmarks.suite.protocol import TUNED, USUAL, Row
from benchmarks.suite.words import in_words
from benchmarks.suite.workloads import QUICK, WITH_DATA

# Published results on the same data, shown below the workload's table.
PUBLISHED = {
    "PneumoniaMNIST": "MedMNIST (Yang et al., 2023) reports an AUC of 0.944 and an accuracy of "
    "85.4 % for a ResNet-18 at 28 × 28 pixels, 100 epochs. The network here is far smaller and "
    "trains for five.",
    "CIFAR-10-LT, imbalance 100, ResNet-32": "Published test accuracies with SGD (Zhang et al., "
    "2021): cross-entropy 69.9, LDAM with deferred weights 75.4, balanced softmax 76.4.",
}


def write_page(found: Mapping[str, Board], folder: Path, left_out: Sequence[str] = ()) -> str:
    """Writes ``report.md`` and its figure. Returns the page, which lists what was left out."""
    by_workload = {name: board for name, board in found.items() if OURS in board and peers(board)}
    notes = _left_out(left_out)
    if not by_workload:
        return "\n\n".join([f"{folder} has no workload with ours and a peer yet.", *notes])
    head = "\n\n".join([_head(folder.name, found), *_missing(folder.name, found), *notes])
    sections = [head, in_words(by_workload), goals(by_workload)]
    sections.append(_profiles(by_workload))
    sections += [_section(name, board) for name, board in by_workload.items()]
    page = "\n\n".join(sections) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(page)
    draw(folder / "report.png", by_workload)
    return page


def _head(suite: str, found: Mapping[str, Board]) -> str:
    """The commands that make each number, and how to disagree."""
    data, images = "", ""
    if not set(found) <= set(QUICK):
        data = " --data FOLDER"
        images = " It needs a folder of images. `docs/suite.md` says where to get them."
    return (
        f"# Report of the {suite} suite\n\n"
        f"One command makes every number: `python -m benchmarks run --suite {suite}{data}`.{images}"
        " Add `--workload NAME --optimizer NAME` for a single row, and `--again` to make it anew. "
        "The files in `cells` hold every run with its machine and versions. Is a peer set up "
        "badly? Change its line in `benchmarks/suite/contenders.py`, run it again, and send the "
        "files as a pull request."
    )


def _missing(suite: str, found: Mapping[str, Board]) -> list[str]:
    """Which workloads have not been run, or with which of the main optimizers."""
    known = {"quick": QUICK, "full": {**QUICK, **WITH_DATA}}.get(suite, {})
    missing = []
    for workload in [*known, *(name for name in found if name not in known)]:
        names = [name for name in MAIN if name not in found.get(workload, {})]
        if names:
            whole = len(names) == len(MAIN)
            missing.append(workload if whole else f"{workload} with {', '.join(names)}")
    return [f"Not run yet: {'; '.join(missing)}."] if missing else []


def _left_out(lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    listed = "\n".join(f"- {line}" for line in lines)
    return [f"**Left out**, as these files have other settings than the rest:\n\n{listed}"]


def _profiles(found: Mapping[str, Board]) -> str:
    caption = (
        "## Performance profile\n\nTime until the validation score that the best tuned peer ends "
        "with (less a point, or 3 % of the loss), over that of the fastest on the same workload. "
        "*Area*: of the profile from 1 to 4 times, 1 is the most; *reached*: within 4 times. On "
        "tiny networks time mostly measures the cost of a step, so two columns have the same area "
        "in *steps*, counted in tenths of a run."
    )
    tuned, usual = (profile(found, kind) for kind in KINDS)
    steps = [profile(found, kind, steps_to) for kind in KINDS]
    rows = [
        [name, *_shown(tuned[name]), *_shown(usual[name]), *(f"{area(p[name]):.2f}" for p in steps)]
        for name in sorted(tuned, key=lambda name: -area(usual[name]))
    ]
    header = [
        "optimizer", "area, tuned", "reached", "area, usual rate", "reached",
        "area in steps, tuned", "area in steps, usual rate",
    ]  # fmt: skip
    figure = "![The share of workloads by the time over that of the fastest](report.png)"
    return f"{caption}\n\n{figure}\n\n{markdown_table(header, rows)}"


def _shown(ratios: np.ndarray) -> tuple[str, str]:
    return f"{area(ratios):.2f}", f"{np.isfinite(ratios).sum()} of {len(ratios)}"


def _section(workload: str, board: Board) -> str:
    rival = row_of(board[best_peer(board)], TUNED)
    what = "Test loss." if is_text(rival) else "Balanced test accuracy in percent."
    header = [
        "optimizer", "rate", *(f"{kind} rate, {at}" for kind in KINDS for at in SCHEDULES),
        "usual − best tuned peer", "step / SGD's", "time to target", "state",
    ]  # fmt: skip
    rows = [_line(name, board, rival) for name in board]
    caption = f"{what} Best tuned peer, by validation: {best_peer(board)}."
    parts = [f"## {workload}", caption, markdown_table(header, rows)]
    if any(np.isfinite(row.test_auc).any() for row in board[OURS].rows):
        parts.append(_two_classes(board))
    if workload in PUBLISHED:
        parts.append(PUBLISHED[workload])
    if any(row.method != PLAIN for row in board[OURS].rows):
        parts.append(_methods(board))
    return "\n\n".join(parts)


def _line(name: str, board: Board, rival: Row) -> list[str]:
    result = board[name]
    rate = row_of(result, TUNED).rate
    edge = "*" if at_an_edge(rate, result.tried) else ""
    rows = [row_of(result, kind, at) for kind in KINDS for at in SCHEDULES]
    time = time_to(board, name, TUNED)
    return [
        name, f"{rate:.2g}{edge}", *map(_score, rows), _gap(row_of(result, USUAL), rival),
        f"{step_ratio(board, name):.2f}", f"{time:.2f}" if np.isfinite(time) else "–",
        f"{result.speed.state:.2f}",
    ]  # fmt: skip


def _gap(row: Row, rival: Row) -> str:
    """The paired difference. The loss of a diverged text is a placeholder, so it has none."""
    if diverged(row) or diverged(rival):
        return "–"
    gap = difference(row, rival)
    spread = f" ± {gap.half:.1f}" if np.isfinite(gap.half) else ""
    return f"{gap.mean:+.1f}{spread}"


def _score(row: Row) -> str:
    if count := diverged(row):
        seeds = len(row.test_loss)
        return "diverged" if count == seeds else f"diverged in {count} of {seeds}"
    return with_spread(np.abs(tested(row)), 3 if is_text(row) else 1)


def _methods(board: Board) -> str:
    """Balanced test accuracy, and that of the worst class."""
    rows = []
    for name, result in board.items():
        found = [row_of(result, TUNED, method=method) for method in METHODS]
        rows.append([name, *(f"{_score(row)} ({_worst(row):.0f})" for row in found)])
    caption = "With a method for rare classes, at the tuned rate (in brackets the worst class):"
    return f"{caption}\n\n{markdown_table(['optimizer', *METHODS], rows)}"


def _two_classes(board: Board) -> str:
    """Accuracy and the area under the ROC curve, as papers on two classes report them."""
    rows = []
    for name, result in board.items():
        shown = [row_of(result, kind) for kind in KINDS]
        cells = [
            f"{with_spread(row.test_accuracy, 1)}, {row.test_auc.mean():.3f}"
            if row.test_auc.size
            else "–"
            for row in shown
        ]
        rows.append([name, *cells])
    header = ["optimizer", *(f"{kind} rate: accuracy, AUC" for kind in KINDS)]
    return f"Accuracy of all test examples in percent, and AUC:\n\n{markdown_table(header, rows)}"


def _worst(row: Row) -> float:
    return float(np.nanmin(row.test_recalls, axis=-1).mean())
