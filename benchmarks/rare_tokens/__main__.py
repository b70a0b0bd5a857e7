"""Measures `scale_by_class_frequency` on the head of a language model with rare tokens.

    python -m benchmarks.rare_tokens [--seeds 3] [--out benchmark-results]

The text is synthetic: 2,000 tokens with frequencies close to Zipf's law, which the context
predicts (`process.py`). The model is an embedding, one hidden layer and a softmax head. Everyone
trains with plain cross-entropy. Every optimizer tries six learning rates in steps of two. The loss
on a validation text chooses among them, with a separate seed. Prints a table and writes it with a
figure and every number: ``rare_tokens.md``, ``.png`` and ``.json``. Takes about ten minutes on one
core.
"""

import argparse
import pathlib

from benchmarks.rare_tokens.comparison import compared
from benchmarks.rare_tokens.report import draw, table
from benchmarks.rare_tokens.training import BATCH, STEPS
from benchmarks.shared.report import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares optimizers on rare tokens.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmark-results"))
    options = parser.parse_args()
    found = compared(options.seeds)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [row.as_json() for row in found.rows]
    results = {"steps": STEPS, "batch": BATCH, "least": found.least.tolist(), "rows": rows}
    write_json(options.out / "rare_tokens.json", results)
    (options.out / "rare_tokens.md").write_text(table(found))
    draw(options.out / "rare_tokens.png", found)
    print(table(found))


if __name__ == "__main__":
    main()
