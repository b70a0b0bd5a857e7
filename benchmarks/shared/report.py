"""How results are written: Markdown tables, JSON files and figures of one style."""

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float

matplotlib.use("Agg")  # writes files, needs no screen
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.shared.machine import machine

# Okabe and Ito's palette, each color with its marker: for color-blind readers and for print.
STYLES = {
    "SGD": ("#E69F00", "s"),
    "Adam": ("#009E73", "^"),
    "Muon": ("#CC79A7", "D"),
    "INSGD": ("#0072B2", "o"),
}
# For the optimizers beyond the four: the rest of the palette, and then other lines.
OTHERS = ("#56B4E9", "#D55E00", "#000000", "#999999")


def style(name: str) -> tuple[str, str]:
    """A color, and how lines are drawn: the variants of an optimizer share its color."""
    base = next((each for each in STYLES if name.split()[0] in (each, f"{each}W")), None)
    if base is not None:
        variant = name not in (base, f"{base}W")
        return STYLES[base][0], ("--" if name.endswith("Full") else ":") if variant else "-"
    number = sum(map(ord, name))
    return OTHERS[number % len(OTHERS)], ("-.", ":", "--")[number // len(OTHERS) % 3]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


Nested = list["Nested"] | float | None


def listed(value: Float[np.ndarray, "..."] | float) -> Nested:
    """For JSON, which knows no NaN and no infinity: both become null."""
    if isinstance(value, np.ndarray) and value.ndim:
        return [listed(each) for each in value]
    return float(value) if math.isfinite(value) else None


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """With the machine, the versions and the command; a reader never sees half of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = " ".join([os.path.relpath(sys.argv[0]), *map(_without_folders, sys.argv[1:])])
    partial = path.with_suffix(".part")
    written = {"machine": machine(), "command": command, **content}
    partial.write_text(json.dumps(written, indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def _without_folders(word: str) -> str:
    """A word of a command; of an absolute path, which is a machine's own, the last part."""
    return Path(word).name if Path(word).is_absolute() else word


def plain(axes: Axes) -> None:
    """No frame at the top and the right, and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def write_figure(path: Path, figure: Figure) -> None:
    # Without the version of matplotlib the same picture is the same file.
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
