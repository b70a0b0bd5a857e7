"""Writes docs/theory.md: predictions for normalized filters next to measurements.

    python -m theory [--out docs]

Writes ``theory.md`` and ``figures/theory-*.png``. Takes about a minute on two cores.
"""

import argparse
from pathlib import Path

import jax

from theory.page import write_page


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes docs/theory.md and its figures.")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder (default docs)")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    write_page(options.out)


if __name__ == "__main__":
    main()
