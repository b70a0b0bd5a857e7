"""Results on disk: a JSON file for each cell. An interrupted benchmark can resume."""

import functools
import json
import time
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from benchmarks.robustness.cell import Cell, Result, trained
from benchmarks.shared.processes import in_processes
from benchmarks.shared.report import Nested, listed, write_json


def results(cells: Iterable[Cell], folder: Path) -> dict[Cell, Result]:
    """The results of all cells that have a file with the same settings."""
    found = {cell: read(cell, folder) for cell in cells}
    return {cell: result for cell, result in found.items() if result is not None}


def missing(cells: Iterable[Cell], folder: Path) -> list[Cell]:
    return [cell for cell in cells if read(cell, folder) is None]


def run_missing(cells: Iterable[Cell], folder: Path, jobs: int) -> None:
    """Trains all cells that have no file with their settings."""
    in_processes([functools.partial(run, cell, folder) for cell in missing(cells, folder)], jobs)


def run(cell: Cell, folder: Path) -> str:
    """Trains one cell and writes its file. Returns a line with its duration."""
    begin = time.perf_counter()
    result = trained(cell)
    write(cell, result, folder)
    jax.clear_caches()  # no program is reused
    step = 1000 * result.step_seconds
    seconds = time.perf_counter() - begin
    return f"{cell.name} in {seconds:.0f} s, {step:.2f} ms a step of all runs"


def path(cell: Cell, folder: Path) -> Path:
    return folder / "cells" / f"{cell.name}.json"


def write(cell: Cell, result: Result, folder: Path) -> None:
    content = {name: listed(value) for name, value in result._asdict().items()}
    write_json(path(cell, folder), {"settings": cell.settings(), **content})


def read(cell: Cell, folder: Path) -> Result | None:
    file = path(cell, folder)
    if not file.exists():
        return None
    content = json.loads(file.read_text())
    # JSON turns tuples into lists.
    if content["settings"] != json.loads(json.dumps(cell.settings())):
        return None
    start, scores = (_array(content[name]) for name in ("start", "scores"))
    return Result(start, scores, content["compile_seconds"], content["step_seconds"])


def _array(values: Nested) -> Float[np.ndarray, "..."]:
    return np.asarray(values, dtype=float)  # None becomes NaN
