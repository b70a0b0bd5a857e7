"""Results on disk: a JSON file for each cell, so that an interrupted benchmark goes on."""

import concurrent.futures
import json
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from benchmarks.robustness.cell import Cell, Result, trained
from benchmarks.shared.report import write_json

Nested = list["Nested"] | float | None


def results(cells: Iterable[Cell], folder: Path) -> dict[Cell, Result]:
    """Of the cells that have a file with the same settings."""
    found = {cell: read(cell, folder) for cell in cells}
    return {cell: result for cell, result in found.items() if result is not None}


def missing(cells: Iterable[Cell], folder: Path) -> list[Cell]:
    return [cell for cell in cells if read(cell, folder) is None]


def run_missing(cells: Iterable[Cell], folder: Path, jobs: int) -> None:
    """Trains the cells without a file, in processes of one thread.

    The networks are small: a second thread makes them hardly faster, a second process does.
    """
    todo = missing(cells, folder)
    begin, spawn = time.perf_counter(), multiprocessing.get_context("spawn")
    pools = concurrent.futures.ProcessPoolExecutor(jobs, spawn, initializer=_end_with_parent)
    with _single_threaded(), pools as pool:
        futures = [pool.submit(run, cell, folder) for cell in todo]
        try:
            for number, future in enumerate(concurrent.futures.as_completed(futures), start=1):
                minutes = (time.perf_counter() - begin) / 60
                line = f"{number}/{len(todo)} after {minutes:.1f} min: {future.result()}"
                print(line, flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes that start inside read these before they import jax."""
    settings = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "NPROC": "1"}
    settings["XLA_FLAGS"] += " " + os.environ.get("XLA_FLAGS", "")
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def run(cell: Cell, folder: Path) -> str:
    """Trains one cell and writes its file. Returns a line that says how long it took."""
    begin = time.perf_counter()
    result = trained(cell)
    write(cell, result, folder)
    jax.clear_caches()  # no program is used again
    step = 1000 * result.step_seconds
    seconds = time.perf_counter() - begin
    return f"{cell.name} in {seconds:.0f} s, {step:.2f} ms a step of all runs"


def path(cell: Cell, folder: Path) -> Path:
    return folder / "cells" / f"{cell.name}.json"


def write(cell: Cell, result: Result, folder: Path) -> None:
    content = {name: _listed(value) for name, value in result._asdict().items()}
    write_json(path(cell, folder), {"settings": cell.settings(), **content})


def read(cell: Cell, folder: Path) -> Result | None:
    file = path(cell, folder)
    if not file.exists():
        return None
    content = json.loads(file.read_text())
    # As JSON has it: a tuple comes back as a list.
    if content["settings"] != json.loads(json.dumps(cell.settings())):
        return None
    start, scores = (_array(content[name]) for name in ("start", "scores"))
    return Result(start, scores, content["compile_seconds"], content["step_seconds"])


def _listed(value: Float[np.ndarray, "..."] | float) -> Nested:
    """JSON knows no NaN and no infinity: both become null."""
    if isinstance(value, np.ndarray):
        return [_listed(each) for each in value]
    return float(value) if math.isfinite(value) else None


def _array(values: Nested) -> Float[np.ndarray, "..."]:
    return np.asarray(values, dtype=float)  # None becomes NaN
