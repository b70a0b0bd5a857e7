"""Which files of a workload were made with equal settings. Others cannot share a table."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.suite.contenders import MAIN
from benchmarks.suite.workloads import QUICK

# The settings that each optimizer has of its own.
OWN = frozenset({"optimizer", "trials", "structure", "schedule"})


class File(NamedTuple):
    """A file of a cell, and what it holds."""

    path: Path
    content: dict[str, Any]

    @property
    def workload(self) -> str:
        return self.content["settings"]["workload"]

    @property
    def optimizer(self) -> str:
        return self.content["settings"]["optimizer"]

    @property
    def shared(self) -> dict[str, Any]:
        """The settings that all optimizers of a workload share, and the runs that the file has."""
        settings = self.content["settings"]
        runs = sorted(f"{row['kind']}, method {row['method']}" for row in self.content["rows"])
        return {**{name: settings[name] for name in settings if name not in OWN}, "runs": runs}


def agreeing(files: Iterable[File]) -> list[File]:
    """Of each workload the files with the settings of the longest runs, in the given order.

    A trial with fewer steps gives way to the whole run, even while that is unfinished. Among equal
    lengths the most seeds count, then the most runs in a file, then the most files.
    """
    kept: list[File] = []
    for group in _by_workload(files).values():
        chosen = max((file.shared for file in group), key=lambda one: _rank(one, group))
        kept += [file for file in group if file.shared == chosen]
    return kept


def _by_workload(files: Iterable[File]) -> dict[str, list[File]]:
    groups: dict[str, list[File]] = {}
    for file in files:
        groups.setdefault(file.workload, []).append(file)
    return groups


def _rank(shared: Mapping[str, Any], group: list[File]) -> tuple[int, int, int, int]:
    alike = sum(file.shared == shared for file in group)
    return shared["steps"], shared["seeds"], len(shared["runs"]), alike


def left_out(files: list[File], folder: Path) -> list[str]:
    """A line for each workload with files that do not agree, and the command that mends it."""
    kept = agreeing(files)
    lines = []
    for workload, group in _by_workload(files).items():
        chosen = next(file for file in kept if file.workload == workload).shared
        others = [file for file in group if file not in kept]
        if others:
            named = "; ".join(_difference(file, chosen) for file in others)
            lines.append(f"{workload}: {named}. {_mend(others, chosen, folder)}")
    return lines


def _difference(file: File, kept: Mapping[str, Any]) -> str:
    shared = file.shared
    values = (
        f"{name} {_short(shared.get(name))} instead of {_short(kept.get(name))}"
        for name in _differing(shared, kept)
    )
    return f"`{file.path.name}` has {' and '.join(values)}"


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [name for name in {**other, **one} if one.get(name) != other.get(name)]


def _short(value: object) -> str:
    return " ".join(str(value).split())


def _mend(others: list[File], kept: Mapping[str, Any], folder: Path) -> str:
    workload = others[0].workload
    data = "" if folder.name == "quick" and workload in QUICK else " --data FOLDER"
    every = "" if all(file.optimizer in MAIN for file in others) else " --all"
    steps = f" --steps {kept['steps']}"
    # A file with the right settings counts as done, even if it lacks runs.
    lacks = any(_differing(file.shared, kept) == ["runs"] for file in others)
    return (
        f"This makes them alike: `python -m benchmarks run --suite {folder.name}{data} --workload "
        f"{shlex.quote(workload)}{every}{' --again' if lacks else ''}{steps} --out "
        f"{shlex.quote(str(folder.parent))}`."
    )
