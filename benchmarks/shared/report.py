"""How results are written: Markdown tables, JSON files and figures of one style."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # writes files, needs no screen
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.machine import machine

# Okabe and Ito's palette, each color with its marker: for color-blind readers and for print.
STYLES = {
    "SGD": ("#E69F00", "s"),
    "Adam": ("#009E73", "^"),
    "Muon": ("#CC79A7", "D"),
    "INSGD": ("#0072B2", "o"),
}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """With the machine, the versions and the command; a reader never sees half of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = " ".join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])
    partial = path.with_suffix(".part")
    written = {"machine": machine(), "command": command, **content}
    partial.write_text(json.dumps(written, indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def plain(axes: Axes) -> None:
    """No frame at the top and the right, and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def write_figure(path: Path, figure: Figure) -> None:
    # Without the version of matplotlib the same picture is the same file.
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
