"""Compares SGD, Adam and INSGD with four losses on imbalanced data.

    python -m benchmarks.class_balance --data FOLDER [--only WORD] [--seeds 3] [--epochs N]

The folder holds ``cifar10_if10.zip``, ``pneumoniamnist.npz`` and ``covid_xray_64.zip``, or some of
them. Every optimizer with every loss gets the same number of learning rates, of which balanced
validation accuracy chooses on a seed of its own. Prints tables and writes them, a figure and every
recall: ``class_balance.md``, ``.png`` and ``.json``. Takes about twenty minutes on two cores.
"""

import argparse
import json
import pathlib
from typing import Any

from benchmarks.class_balance.comparison import Row, compared
from benchmarks.class_balance.data import Task, tasks
from benchmarks.class_balance.figure import write_figure
from benchmarks.class_balance.report import section
from benchmarks.machine import machine


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares optimizers on imbalanced classes.")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of data sets")
    parser.add_argument("--only", default="", help="only data sets with this word in their name")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="for all data sets (default: one for each)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmark-results"))
    options = parser.parse_args()
    sections: list[str] = []
    rows: dict[str, list[Row]] = {}
    numbers: dict[str, Any] = {}
    for task in tasks(options.data, options.only):
        task = task._replace(epochs=options.epochs or task.epochs)
        rows[task.name] = compared(task, options.seeds)
        sections.append(section(task, rows[task.name]))
        numbers[task.name] = _as_json(task, rows[task.name])
    if not sections:
        parser.error(f"there is nothing to compare on in {options.data}.")
    options.out.mkdir(parents=True, exist_ok=True)
    results = {"machine": machine(), "data": numbers}
    (options.out / "class_balance.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "class_balance.md").write_text("\n".join(sections))
    write_figure(options.out / "class_balance.png", rows)
    print("\n".join(sections))


def _as_json(task: Task, rows: list[Row]) -> dict[str, Any]:
    return {
        "training_images": dict(zip(task.classes, task.counts.tolist(), strict=True)),
        "epochs": task.epochs,
        "batch": task.batch,
        "rows": [row.as_json() for row in rows],
    }


if __name__ == "__main__":
    main()
