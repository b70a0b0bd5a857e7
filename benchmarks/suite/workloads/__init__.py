"""The workloads by name: one file for each kind of data."""

import functools
from collections.abc import Callable
from pathlib import Path

from benchmarks.suite.task import Task
from benchmarks.suite.workloads import cifar, digits, tabular, text, xrays

# The quick ones have their data from scikit-learn, or make it.
QUICK: dict[str, Callable[[], Task]] = {
    **digits.WORKLOADS,
    **tabular.WORKLOADS,
    **text.WORKLOADS,
}
# The name of a file in the folder of data sets, and from its path to a task.
WITH_DATA: dict[str, tuple[str, Callable[[Path], Task]]] = {**cifar.WORKLOADS, **xrays.WORKLOADS}


def names(data: Path | None) -> list[str]:
    """The quick ones, those that the folder has data sets for, and the folder's own images.

    A folder that has images in class folders (``CLASS/IMAGE``) is a workload in itself.
    """
    if data is None:
        return list(QUICK)
    found = [name for name, (file, _) in WITH_DATA.items() if (data / file).exists()]
    return [*QUICK, *found] if found else [*QUICK, f"images of {data.resolve().name}"]


@functools.cache
def task(name: str, data: Path | None) -> Task:
    if name in QUICK:
        return QUICK[name]()
    if data is None:
        raise ValueError(f"The workload '{name}' needs a folder of data sets: --data FOLDER")
    if name not in WITH_DATA:
        return xrays.class_folders(data, mode="RGB")
    file, build = WITH_DATA[name]
    return build(data / file)
