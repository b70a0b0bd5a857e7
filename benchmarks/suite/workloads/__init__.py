"""The workloads by name, with one file for each kind of data."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.suite.task import Task
from benchmarks.suite.workloads import cifar, digits, tabular, text, xrays

# Quick workloads take their data from scikit-learn or generate it.
QUICK: dict[str, Callable[[], Task]] = {
    **digits.WORKLOADS,
    **tabular.WORKLOADS,
    **text.WORKLOADS,
}
# The possible file names in the folder of data sets, and a function from the path to the task.
WithData = Mapping[str, tuple[tuple[str, ...], Callable[[Path], Task]]]
WITH_DATA: WithData = {**cifar.WORKLOADS, **xrays.WORKLOADS}
# Too long for a CPU.
GPU: WithData = cifar.GPU


def names(data: Path | None, suite: str = "full") -> list[str]:
    """The workloads of a suite. The quick one leaves a folder's known data sets to the others.

    A folder holds known data sets, or images in class folders (``CLASS/IMAGE``) as one workload.
    """
    if data is None:
        return list(QUICK)
    if suite == "gpu":
        return _present(data, GPU)
    known = _present(data, WITH_DATA) if suite == "full" else []
    own = [f"images of {data.resolve().name}"] if has_own_images(data) else []
    return [*QUICK, *known, *own]


def has_own_images(data: Path | None) -> bool:
    """Whether it is a folder of class folders, and not one of known data sets."""
    return data is not None and not _present(data, {**WITH_DATA, **GPU})


def _present(data: Path, workloads: WithData) -> list[str]:
    return [name for name, (files, _) in workloads.items() if _path(data, files) is not None]


def _path(data: Path, files: tuple[str, ...]) -> Path | None:
    return next((data / file for file in files if (data / file).exists()), None)


@functools.cache
def task(name: str, data: Path | None) -> Task:
    if name in QUICK:
        return QUICK[name]()
    if data is None:
        raise ValueError(f"The workload '{name}' needs a folder of data sets: --data FOLDER")
    known = {**WITH_DATA, **GPU}
    if name not in known:
        return xrays.class_folders(data)
    files, build = known[name]
    return build(_path(data, files) or data / files[0])
