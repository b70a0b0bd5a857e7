"""Results on disk: a JSON file for each cell. An interrupted suite can resume."""

import functools
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.shared.processes import in_processes
from benchmarks.shared.report import listed, write_json
from benchmarks.suite.agreement import File, agreements, left_out
from benchmarks.suite.contenders import everyone
from benchmarks.suite.protocol import Cell, Result, Row, run
from benchmarks.suite.speed import Speed

DIGITS = 6  # significant digits in the files


def run_missing(
    cells: Iterable[Cell], folder: Path, jobs: int, minutes: float | None, again: bool = False
) -> None:
    """Runs each cell that has no file with its settings. Starts none after ``minutes``.

    With ``again`` it runs all cells. A file stays until its new result replaces it.

    Raises:
      RuntimeError: if a cell failed, once all others have finished.
    """
    end = None if minutes is None else time.time() + 60 * minutes
    missing = [cell for cell in cells if again or not is_done(cell, folder)]
    if not missing:
        print(f"Nothing to run: {folder} has these results. --again makes them anew.")
    in_processes([functools.partial(_run, cell, folder, end) for cell in missing], jobs)


def is_done(cell: Cell, folder: Path) -> bool:
    """Whether a file with the cell's settings exists."""
    file = path(cell, folder)
    return file.exists() and json.loads(file.read_text())["settings"] == cell.settings()


def _run(cell: Cell, folder: Path, end: float | None) -> str:
    if end is not None and time.time() > end:
        return f"{cell.name} is left for the next time"
    begin = time.perf_counter()
    write(cell, run(cell), folder)
    jax.clear_caches()  # no program is reused
    return f"{cell.name} in {time.perf_counter() - begin:.0f} s"


def path(cell: Cell, folder: Path) -> Path:
    return folder / "cells" / f"{cell.name}.json"


def write(cell: Cell, result: Result, folder: Path) -> None:
    rows = [{name: _rounded(value) for name, value in row._asdict().items()} for row in result.rows]
    tried = list(result.tried.items())
    content = {"tried": tried, "rows": rows, "speed": result.speed._asdict()}
    write_json(path(cell, folder), {"settings": cell.settings(), **content})


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
      boards: the results by workload and optimizer. Optimizers have their usual order.
      left_out: a line for each workload with files whose settings differ from those of the others.
    """

    boards: dict[str, dict[str, Result]]
    left_out: list[str]


def read_all(folder: Path) -> Found:
    order = list(everyone())
    found = agreements(sorted(_files(folder), key=lambda file: order.index(file.optimizer)))
    boards = {
        workload: {file.optimizer: _result(file.content) for file in each.kept}
        for workload, each in found.items()
    }
    return Found(boards, left_out(found, folder))


def _files(folder: Path) -> list[File]:
    """All files of a folder.

    Raises:
      ValueError: if a file has an optimizer that is not in `everyone`.
    """
    paths = sorted((folder / "cells").glob("*.json"))
    files = [File(path, json.loads(path.read_text())) for path in paths]
    for file in files:
        if file.optimizer not in everyone():
            raise ValueError(
                f"{file.path} has results of '{file.optimizer}', which is not an optimizer of the "
                "suite. Add it to benchmarks/suite/contenders.py, or remove the file."
            )
    return files


def _result(content: dict[str, Any]) -> Result:
    rows = [Row(**dict(map(_as_array, row.items()))) for row in content["rows"]]
    tried = dict(content["tried"])
    return Result(content["settings"]["schedule"], tried, rows, Speed(**content["speed"]))


def _as_array(named: tuple[str, Any]) -> tuple[str, Any]:
    """Turns lists into arrays and their nulls into NaN."""
    name, value = named
    return name, np.asarray(value, dtype=float) if isinstance(value, list) else value


def _rounded(value: object) -> object:
    if not isinstance(value, np.ndarray):
        return value
    with np.errstate(all="ignore"):
        size = 10.0 ** (DIGITS - 1 - np.floor(np.log10(np.abs(value) + 1e-30)))
        return listed(np.where(np.isfinite(size), np.round(value * size) / size, value))
