"""Options, tables and colors that the examples share."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

# Okabe and Ito's palette: color-blind readers can tell the lines apart too.
COLORS = {"SGD": "#0072B2", "Adam": "#E69F00", "Muon": "#CC79A7", "INSGD": "#009E73"}


def options(about: str | None, steps: int, of: str = "train steps") -> argparse.ArgumentParser:
    """A parser with ``--steps`` and ``--out``, which shows a module's text as its help."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, formatter_class=raw)
    parser.add_argument("--steps", type=int, default=steps, help=f"{of} (default {steps})")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder (default demo)")
    return parser


def percent(shares: Float[np.ndarray, "seeds"]) -> str:
    """Mean ± standard deviation; one seed has no deviation.

    >>> percent(np.array([0.5, 0.6])), percent(np.array([0.5]))
    ('55.0 ± 7.1', '50.0')
    """
    mean = f"{100 * shares.mean():.1f}"
    return f"{mean} ± {100 * shares.std(ddof=1):.1f}" if len(shares) > 1 else mean


def table(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Markdown with aligned columns: the first ``texts`` to the left, numbers to the right.

    >>> print(table(["optimizer", "accuracy"], [["Adam", "91.2"], ["INSGD", "93.0"]]))
    | optimizer | accuracy |
    | --------- | -------: |
    | Adam      |     91.2 |
    | INSGD     |     93.0 |
    """
    columns = []
    for place, cells in enumerate(zip(header, *rows, strict=True)):
        width = max(map(len, cells))
        rule, side = ("-" * width, "<") if place < texts else ("-" * (width - 1) + ":", ">")
        columns.append([f"{cell:{side}{width}}" for cell in (cells[0], rule, *cells[1:])])
    return "\n".join(f"| {' | '.join(row)} |" for row in zip(*columns, strict=True))
