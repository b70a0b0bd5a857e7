"""Writes results: Markdown tables, JSON files and figures in one style."""

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

# Okabe and Ito's palette with distinct markers, for color-blind readers and for print.
STYLES = {
    "SGD": ("#E69F00", "s"),
    "Adam": ("#009E73", "^"),
    "Muon": ("#CC79A7", "D"),
    "INSGD": ("#0072B2", "o"),
}
# For further optimizers: the rest of the palette, then other line styles.
OTHERS = ("#56B4E9", "#D55E00", "#000000", "#999999")


def style(name: str) -> tuple[str, str]:
    """The color and line style of an optimizer. Its variants share its color."""
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
    """Lists for JSON. It has no NaN or infinity, so both become null."""
    if isinstance(value, np.ndarray) and value.ndim:
        return [listed(each) for each in value]
    return float(value) if math.isfinite(value) else None


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Writes the content with machine, versions and command. Readers never see half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = " ".join([os.path.relpath(sys.argv[0]), *map(_without_folders, sys.argv[1:])])
    partial = path.with_suffix(".part")
    written = {"machine": machine(), "command": command, **content}
    partial.write_text(json.dumps(written, indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def _without_folders(word: str) -> str:
    """Shortens an absolute path to its last part. The rest belongs to one machine."""
    return Path(word).name if Path(word).is_absolute() else word


def plain(axes: Axes) -> None:
    """Removes the top and right frame and adds a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def write_figure(path: Path, figure: Figure) -> None:
    # Matplotlib's version would make equal pictures differ as files.
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
