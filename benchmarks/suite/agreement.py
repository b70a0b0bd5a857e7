"""Which files of a workload were made with equal settings. Others cannot share a table."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.suite.contenders import MAIN
from benchmarks.suite.workloads import QUICK

# Settings that differ between optimizers.
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


class Agreement(NamedTuple):
    """The files of a workload that make its table, their settings, and the other files."""

    kept: list[File]
    shared: dict[str, Any]
    others: list[File]


def agreements(files: Iterable[File]) -> dict[str, Agreement]:
    """For each workload the files with the settings of the longest runs.

    A trial with fewer steps gives way to the whole run, even while that is unfinished. Among equal
    lengths the most seeds count, then the most runs in a file, then the most files.
    """
    groups: dict[str, list[File]] = {}
    for file in files:
        groups.setdefault(file.workload, []).append(file)
    return {workload: _agreement(groups[workload]) for workload in sorted(groups)}


def _agreement(group: list[File]) -> Agreement:
    settings = [file.shared for file in group]

    def rank(one: dict[str, Any]) -> tuple[int, int, int, int]:
        return one["steps"], one["seeds"], len(one["runs"]), settings.count(one)

    shared = max(settings, key=rank)
    kept = [file for file, own in zip(group, settings, strict=True) if own == shared]
    others = [file for file, own in zip(group, settings, strict=True) if own != shared]
    return Agreement(kept, shared, others)


def left_out(found: Mapping[str, Agreement], folder: Path) -> list[str]:
    """A line for each workload with files that do not agree, and the command that mends it."""
    lines = []
    for workload, (_, shared, others) in found.items():
        if others:
            named = "; ".join(_difference(file, shared) for file in others)
            lines.append(f"{workload}: {named}. {_mend(others, shared, folder)}")
    return lines


def _difference(file: File, kept: Mapping[str, Any]) -> str:
    shared = file.shared
    values = (
        f"{name} {_in_one_line(shared.get(name))} instead of {_in_one_line(kept.get(name))}"
        for name in _differing(shared, kept)
    )
    return f"`{file.path.name}` has {' and '.join(values)}"


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [name for name in {**other, **one} if one.get(name) != other.get(name)]


def _in_one_line(value: object) -> str:
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
