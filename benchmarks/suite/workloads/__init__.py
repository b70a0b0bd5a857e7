"""The workloads by name: one file for each kind of data."""

import functools
from collections.abc import Callable
from pathlib import Path

from benchmarks.suite.task import Task
from benchmarks.suite.workloads import digits, tabular, text

# From the folder of data sets to a task. The quick ones need no folder.
Build = Callable[[Path | None], Task]

QUICK: dict[str, Build] = {**digits.WORKLOADS, **tabular.WORKLOADS, **text.WORKLOADS}
WORKLOADS: dict[str, Build] = QUICK


@functools.cache
def task(name: str, data: Path | None) -> Task:
    return WORKLOADS[name](data)
