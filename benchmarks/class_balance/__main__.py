"""Compares SGD, Adam, Muon and INSGD with several losses on imbalanced data.

    python -m benchmarks.class_balance --data FOLDER [--only WORD] [--seeds 3] [--jobs 2]

The folder holds ``cifar10_if10.zip``, ``pneumoniamnist.npz`` and ``covid_xray_64.zip``, or some of
them. Every optimizer tries six learning rates over a range of 256 with a plain loss, on a separate
seed. The rate with the best balanced validation accuracy is used for all of its losses.
Prints tables and writes them, a figure and every recall: ``class_balance.md``, ``.png`` and
``.json``. Takes about an hour on two cores.
"""

import argparse
import json
import multiprocessing
import pathlib
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.class_balance.comparison import Row, compared
from benchmarks.class_balance.contenders import contenders
from benchmarks.class_balance.data import Task, tasks
from benchmarks.class_balance.figure import write_figure
from benchmarks.class_balance.report import section
from benchmarks.shared.machine import machine


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares optimizers on imbalanced classes.")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of data sets")
    parser.add_argument("--only", default="", help="only data sets with this word in their name")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="for all data sets (default: one for each)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at the same time")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmark-results"))
    options = parser.parse_args()
    found = [
        task._replace(epochs=options.epochs or task.epochs)
        for task in tasks(options.data, options.only)
    ]
    if not found:
        parser.error(f"there is nothing to compare on in {options.data}.")
    rows = _compared(found, options.seeds, options.jobs)
    sections = [section(task, rows[task.name]) for task in found]
    numbers = {task.name: _as_json(task, rows[task.name]) for task in found}
    options.out.mkdir(parents=True, exist_ok=True)
    results = {"machine": machine(), "data": numbers}
    (options.out / "class_balance.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "class_balance.md").write_text("\n".join(sections))
    write_figure(options.out / "class_balance.png", rows)
    print("\n".join(sections))


def _compared(found: list[Task], seeds: int, jobs: int) -> dict[str, list[Row]]:
    """An optimizer on a data set is a job, in a process of its own."""
    context = multiprocessing.get_context("spawn")  # JAX does not stand being forked
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        running = {
            task.name: [pool.submit(compared, task, name, seeds) for name in contenders()]
            for task in found
        }
        return {
            name: [row for rows in futures for row in rows.result()]
            for name, futures in running.items()
        }


def _as_json(task: Task, rows: list[Row]) -> dict[str, Any]:
    return {
        "training_images": dict(zip(task.classes, task.counts.tolist(), strict=True)),
        "epochs": task.epochs,
        "batch": task.batch,
        "rows": [row.as_json() for row in rows],
    }


if __name__ == "__main__":
    main()
