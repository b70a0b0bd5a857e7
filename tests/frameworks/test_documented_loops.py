"""The loops of docs/frameworks.md differ from their Adam versions in three lines and an import."""

import difflib
import pathlib
import re

import jax
import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "frameworks.md"
BLOCK = re.compile(r"^## (.*?)$|```(python|diff)\n(.*?)```", re.DOTALL | re.MULTILINE)


def _loops() -> dict[str, tuple[list[str], list[str]]]:
    """By section, the lines of the loop with INSGD and those of what differs."""
    loops, section, python = {}, "", []
    for title, kind, text in BLOCK.findall(PAGE.read_text()):
        section = title or section
        if kind == "python":
            python = text.splitlines()
        elif kind == "diff":
            loops[section] = python, text.splitlines()
    return loops


def _with_adam(insgd: list[str], changes: list[str]) -> list[str]:
    """The loop before the changes: each run of removed lines where the added ones stand."""
    before, removed = list(insgd), []
    for line in changes:
        if line.startswith("-"):
            removed.append(line[1:])
        else:
            place = before.index(line[1:])
            before[place : place + 1], removed = removed, []
    assert not removed, "lines are removed that nothing stands for"
    return before


def _is_import(line: str) -> bool:
    return line[1:].startswith(("import ", "from "))


LOOPS = _loops()
every_loop = pytest.mark.parametrize(
    "section", ["Plain functions", "Flax NNX", "Flax Linen", "Equinox"]
)


@every_loop
def test_three_lines_and_an_import_change(section: str) -> None:
    insgd, changes = LOOPS[section]
    adam = _with_adam(insgd, changes)
    found = [line for line in difflib.ndiff(adam, insgd) if line[0] in "+-"]
    changed = [line[0] + line[2:] for line in found]
    assert sorted(changed) == sorted(changes)
    others = [line for line in changed if not _is_import(line)]
    assert [line[0] for line in others] == ["-", "+"] * 3
    imports = [line[0] for line in changed if _is_import(line)]
    assert imports.count("+") - imports.count("-") == 1


@every_loop
@pytest.mark.framework
def test_both_versions_run_and_give_the_same_first_loss(section: str) -> None:
    insgd, changes = LOOPS[section]
    shared = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    losses = []
    with jax.enable_x64(False):  # as it is for a reader
        for lines in (insgd, _with_adam(insgd, changes)):
            names: dict[str, jax.Array] = {}
            for text in (shared[1], "\n".join(lines)):
                exec(compile(text, section, "exec"), names)
            losses.append(float(names["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
