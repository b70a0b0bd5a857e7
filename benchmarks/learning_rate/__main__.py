"""Measures sensitivity to the learning rate on scikit-learn's digits.

    python -m benchmarks.learning_rate [--seeds 3] [--out benchmark-results]

Prints two tables and writes them with a figure and every accuracy: ``learning_rate.md``, ``.png``
and ``.json``. Takes about five minutes on one core.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.learning_rate.contenders import DEFAULT_RATE
from benchmarks.learning_rate.figure import draw
from benchmarks.learning_rate.paper_case import paper_case
from benchmarks.learning_rate.sweep import RATES, SCALES, sweep
from benchmarks.learning_rate.table import markdown
from benchmarks.learning_rate.training import BATCH, STEPS
from benchmarks.shared.report import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy against the learning rate, on digits.")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each case (default 3)")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmark-results"),
        help="folder of the results (default benchmark-results)",
    )  # fmt: skip
    options = parser.parse_args()
    nets, paper = sweep(options.seeds), paper_case(options.seeds)
    page = markdown(nets, paper)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "learning_rate.json", _report(nets, paper))
    (options.out / "learning_rate.md").write_text(page)
    draw(options.out / "learning_rate.png", nets)
    print(f"\n{page}")


def _report(nets: Any, paper: Any) -> dict[str, Any]:
    """Validation accuracies in percent by scale, learning rate and seed."""
    return {
        "settings": {
            "steps": STEPS,
            "batch": BATCH,
            "input_scales": SCALES,
            "learning_rates": RATES.tolist(),
            "default_learning_rate": DEFAULT_RATE,
        },
        "validation_accuracy": {
            net: {name: each.tolist() for name, each in found.items()}
            for net, found in nets.items()
        },
        "paper_case_validation_accuracy": {name: each.tolist() for name, each in paper.items()},
    }


if __name__ == "__main__":
    main()
