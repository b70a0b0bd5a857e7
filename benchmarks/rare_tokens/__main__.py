"""Measures `scale_by_class_frequency` on the head of a language model with rare tokens.

    python -m benchmarks.rare_tokens [--seeds 3] [--out benchmark-results]

A synthetic text of 2,000 tokens with frequencies close to Zipf's law, which the context predicts
(`process.py`); an embedding, one hidden layer and a softmax head, with plain cross-entropy for
everyone. Every optimizer gets six learning rates, each twice the one before, of which the loss on
a validation text chooses with a seed of its own. Prints a table and writes it, a figure and every
number: ``rare_tokens.md``, ``.png`` and ``.json``. Takes about ten minutes on one core.
"""

import argparse
import json
import pathlib

from benchmarks.machine import machine
from benchmarks.rare_tokens.comparison import compared
from benchmarks.rare_tokens.report import table, write_figure
from benchmarks.rare_tokens.training import BATCH, STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares optimizers on rare tokens.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmark-results"))
    options = parser.parse_args()
    found = compared(options.seeds)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [row.as_json() for row in found.rows]
    results = {"machine": machine(), "steps": STEPS, "batch": BATCH, "least": found.least.tolist()}
    report = json.dumps({**results, "rows": rows}, indent=1)
    (options.out / "rare_tokens.json").write_text(report + "\n")
    (options.out / "rare_tokens.md").write_text(table(found))
    write_figure(options.out / "rare_tokens.png", found)
    print(table(found))


if __name__ == "__main__":
    main()
