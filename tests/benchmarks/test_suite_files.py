"""The files of the suite: what replaces them, and what a report makes of those that do not fit."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks.suite import results
from benchmarks.suite.comparison import row_of
from benchmarks.suite.contenders import MAIN
from benchmarks.suite.methods import METHODS, PLAIN
from benchmarks.suite.page import write_page
from benchmarks.suite.protocol import TUNED, USUAL, Cell, Result, Row
from benchmarks.suite.results import is_done, path, read_all, run_missing, write
from benchmarks.suite.speed import Speed
from benchmarks.suite.workloads import QUICK, names

pytestmark = [pytest.mark.framework, pytest.mark.usefixtures("as_users_run_it")]


def made_by_hand(score: float = 90.0, seeds: int = 3) -> Result:
    curve = np.linspace(50, score, 10)[:, None] * np.ones((1, seeds))
    recalls = score * np.ones((seeds, 10))
    rows = [
        Row(0.1, kind, schedule, PLAIN, curve, curve, curve[-1], recalls)
        for kind in (TUNED, USUAL)
        for schedule in ("cosine", "constant")
    ]
    return Result("cosine", {0.1: score}, rows, Speed(1e-3, 1.0, 1.0))


def files(folder: Path, names: list[str], steps: int | None = None, seeds: int = 3) -> None:
    for name in names:
        write(Cell("digits", name, seeds, steps=steps), made_by_hand(seeds=seeds), folder)


def page_of(folder: Path) -> str:
    found = read_all(folder)
    return write_page(found.boards, folder, found.left_out)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs cells in this process and without training. The list gets their optimizers."""
    done: list[str] = []

    def run(cell: Cell) -> Result:
        done.append(cell.optimizer)
        if cell.optimizer == "AdamW":
            raise KeyboardInterrupt
        return made_by_hand(95.0)

    def one_by_one(work, jobs):
        del jobs
        for each in work:
            each()

    monkeypatch.setattr(results, "run", run)
    monkeypatch.setattr(results, "in_processes", one_by_one)
    return done


def test_an_interrupted_again_keeps_the_old_file_of_each_cell_without_a_new_result(tmp_path, here):
    files(tmp_path, ["SGD", "AdamW", "Muon"])
    cells = [Cell("digits", name, 3) for name in ("SGD", "AdamW", "Muon")]
    with pytest.raises(KeyboardInterrupt):
        run_missing(cells, tmp_path, 1, None, again=True)
    assert here == ["SGD", "AdamW"]
    found = read_all(tmp_path).boards["digits"]
    assert {name: list(result.tried.values()) for name, result in found.items()} == {
        "SGD": [95.0], "AdamW": [90.0], "Muon": [90.0],
    }  # fmt: skip


def test_a_cell_that_fails_leaves_a_report_of_the_others(tmp_path, here, monkeypatch, capsys):
    files(tmp_path / "quick", ["SGD", "INSGD"], steps=2000)
    monkeypatch.setattr("sys.argv", [
        "benchmarks", "run", "--workload", "drifting digits, batch 8", "--optimizer", "SGD",
        "--steps", "2000", "--out", str(tmp_path),
    ])  # fmt: skip

    def failing(*work: object) -> None:
        raise RuntimeError("1 of 1 failed. Their errors are above.")

    monkeypatch.setattr(results, "in_processes", failing)
    with pytest.raises(SystemExit, match="1 of 1 failed"):
        command.main()
    assert "## digits" in capsys.readouterr().out
    assert (tmp_path / "quick" / "report.md").exists()


def test_again_in_zero_minutes_loses_no_file(tmp_path, here, monkeypatch):
    folder = tmp_path / "quick"
    files(folder, ["SGD", "INSGD"])
    before = {file.name: file.read_text() for file in (folder / "cells").iterdir()}
    monkeypatch.setattr("sys.argv", [
        "benchmarks", "run", "--again", "--minutes", "0", "--workload", "digits",
        "--out", str(tmp_path),
    ])  # fmt: skip
    command.main()
    assert here == []
    assert {file.name: file.read_text() for file in (folder / "cells").iterdir()} == before


def test_the_longest_runs_of_a_workload_make_the_report_and_others_are_named(tmp_path):
    folder = tmp_path / "quick"
    files(folder, ["SGD", "AdamW", "Muon"], steps=20)
    files(folder, ["SGD", "INSGD"])
    assert list(read_all(folder).boards["digits"]) == ["SGD", "INSGD"]
    page = page_of(folder)
    assert "`digits_AdamW.json` has steps 20 instead of 1000" in page
    assert "`digits_Muon.json` has steps 20 instead of 1000" in page
    assert "digits_SGD.json" not in page


def test_the_command_beside_what_is_left_out_would_make_exactly_these_files_alike(
    tmp_path, monkeypatch
):
    folder = tmp_path / "quick"
    files(folder, ["AdamW", "paper"], steps=20)
    files(folder, ["SGD", "INSGD"])
    (line,) = read_all(folder).left_out
    arguments = shlex.split(line.partition("python -m ")[2].partition("`")[0])
    monkeypatch.setattr("sys.argv", arguments)
    chosen = command.options()
    assert chosen.out / chosen.suite == folder
    cells = command.chosen_cells(chosen)
    there = [cell for cell in cells if path(cell, folder).exists()]
    again = [cell.optimizer for cell in there if not is_done(cell, folder)]
    assert again == ["AdamW", "paper"]


def test_other_numbers_of_seeds_do_not_share_a_table(tmp_path):
    folder = tmp_path / "quick"
    files(folder, ["SGD", "INSGD"])
    files(folder, ["AdamW"], seeds=2)
    page = page_of(folder)
    assert "`digits_AdamW.json` has seeds 2 instead of 3" in page


def test_a_report_without_a_peer_still_says_what_it_left_out(tmp_path):
    folder = tmp_path / "quick"
    files(folder, ["SGD"], steps=20)
    files(folder, ["INSGD"])
    page = page_of(folder)
    assert page.startswith(f"{folder} has no workload") and "digits_SGD.json" in page


def test_a_file_that_lacks_a_method_is_left_out_and_made_again(tmp_path):
    folder = tmp_path / "quick"
    files(folder, ["SGD", "AdamW", "INSGD"])
    for name in ("SGD", "INSGD"):
        file = path(Cell("digits", name, 3), folder)
        content = json.loads(file.read_text())
        more = [{**content["rows"][0], "method": method} for method in METHODS if method != PLAIN]
        file.write_text(json.dumps({**content, "rows": content["rows"] + more}))
    assert list(read_all(folder).boards["digits"]) == ["SGD", "INSGD"]
    (line,) = read_all(folder).left_out
    assert "digits_AdamW.json" in line and "--again" in line


def test_a_row_that_is_missing_is_named(tmp_path):
    with pytest.raises(LookupError, match=r"tuned rate.*'cosine'.*'balanced softmax'"):
        row_of(made_by_hand(), TUNED, method="balanced softmax")


def test_a_file_of_an_optimizer_that_the_suite_does_not_have_is_named(tmp_path):
    files(tmp_path, ["SGD"])
    file = path(Cell("digits", "SGD", 3), tmp_path)
    file.write_text(file.read_text().replace('"optimizer": "SGD"', '"optimizer": "Lion"'))
    with pytest.raises(ValueError, match=r"digits_SGD.json has results of 'Lion'.*contenders.py"):
        read_all(tmp_path)


def test_the_report_names_the_main_optimizers_that_a_workload_lacks(tmp_path):
    whole = {name: made_by_hand() for name in MAIN}
    found = {name: whole for name in QUICK} | {"digits": {"INSGD": made_by_hand()}}
    found["breast cancer"] = {name: made_by_hand() for name in MAIN if name != "Muon"}
    del found["digits, 5 of each"]
    page = write_page(found, tmp_path / "quick")
    (line,) = (line for line in page.splitlines() if line.startswith("Not run yet"))
    assert line.endswith(
        "digits with SGD, AdamW, Muon, INSGD LowRank; digits, 5 of each; breast cancer with Muon."
    )
    assert "Not run yet" not in write_page({name: whole for name in QUICK}, tmp_path / "quick")


def test_a_folder_of_known_data_sets_adds_nothing_to_the_quick_suite(tmp_path):
    (tmp_path / "cifar10.zip").write_bytes(b"")
    assert names(tmp_path, "quick") == list(QUICK)
    assert len(names(tmp_path, "full")) > len(QUICK)


def test_a_folder_of_ones_own_images_is_in_the_quick_suite_too(tmp_path):
    (tmp_path / "ill").mkdir()
    assert names(tmp_path, "quick") == [*QUICK, f"images of {tmp_path.name}"]
