"""Runs every optimizer at a third of its usual learning rate, at that rate and at three times it.

    python -m benchmarks.robustness [--jobs 2] [--quick] [--out benchmark-results/robustness]

There are nine small networks, batches of 1, 8, 32 and 128, a constant learning rate and a cosine
to zero. All optimizers share the initial weights and the batches. A score is the mean of ten
evaluations over the last tenth of the steps, since a constant rate is noisy.

Each cell (network, batch, optimizer) has a file below ``--out``. A cell runs if no file has its
settings, so an interrupted benchmark resumes. Changes of the library are not detected: use another
folder for another version. ``--report`` writes the page from the files.
"""

import argparse
import itertools
from pathlib import Path

from benchmarks.robustness.cell import Cell, Result
from benchmarks.robustness.comparison import Case, case
from benchmarks.robustness.figure import draw
from benchmarks.robustness.page import page
from benchmarks.robustness.results import results, run_missing
from benchmarks.robustness.workloads import WORKLOADS, workload
from benchmarks.shared.contender import contenders
from benchmarks.shared.schedules import SCHEDULES

STEPS = {1: 2000, 8: 2000, 32: 1000, 128: 500}  # by batch size
QUICK_STEPS = {8: 500}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compares optimizers at their usual rates.")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results/robustness"))
    parser.add_argument("--seeds", type=int, default=3, help="paired runs (default 3)")
    parser.add_argument("--jobs", type=int, default=2, help="single-threaded processes (default 2)")
    parser.add_argument("--nets", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--batches", nargs="+", type=int, choices=STEPS, default=None)
    names = list(contenders())
    parser.add_argument("--optimizers", nargs="+", choices=names, default=names)
    parser.add_argument("--quick", action="store_true", help="batches of 8, short runs")
    parser.add_argument("--report", action="store_true", help="only rewrite the page")
    return parser.parse_args()


def chosen_cells(chosen: argparse.Namespace) -> list[Cell]:
    steps = QUICK_STEPS if chosen.quick else STEPS
    batches = [batch for batch in steps if batch in (chosen.batches or steps)]
    places = itertools.product(chosen.nets, batches, chosen.optimizers)
    return [
        Cell(net, batch, optimizer, steps[batch], chosen.seeds) for net, batch, optimizer in places
    ]


def complete_cases(found: dict[Cell, Result], optimizers: list[str]) -> list[Case]:
    """The networks and batch sizes that all optimizers have finished, with each schedule."""
    by_place: dict[tuple[str, int], dict[str, Result]] = {}
    for cell, result in found.items():
        by_place.setdefault((cell.net, cell.batch), {})[cell.optimizer] = result
    return [
        case((net, batch, schedule), by_name, row, workload(net).chance)
        for (net, batch), by_name in by_place.items()
        if set(by_name) == set(optimizers)
        for row, schedule in enumerate(SCHEDULES)
    ]


def main() -> None:
    chosen = options()
    folder = chosen.out / "quick" if chosen.quick else chosen.out
    cells = chosen_cells(chosen)
    if not chosen.report:
        run_missing(cells, folder, chosen.jobs)
    # The page compares all optimizers, even if only some of them ran now.
    chosen.optimizers = list(contenders())
    cases = complete_cases(results(chosen_cells(chosen), folder), chosen.optimizers)
    written = page(cases, chosen.seeds)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "robustness.md").write_text(written)
    if cases:
        draw(folder / "robustness.png", cases)
    print(f"\n{written}")


if __name__ == "__main__":
    main()
