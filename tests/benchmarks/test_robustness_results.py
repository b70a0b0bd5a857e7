"""An interrupted benchmark goes on, and its page is made from the files alone."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks.robustness import results
from benchmarks.robustness.__main__ import complete_cases
from benchmarks.robustness.cell import Cell, Result
from benchmarks.robustness.figure import draw
from benchmarks.robustness.page import page
from benchmarks.shared.contender import contenders

CELLS = [Cell("relu-mlp", 8, name, 100, 3) for name in contenders()]
SCORES = np.linspace(80.0, 97.0, 18).reshape(2, 3, 3)


def made_by_hand(cell: Cell) -> Result:
    """Later optimizers are better by a point each."""
    better = list(contenders()).index(cell.optimizer)
    return Result(np.full(3, 10.0), SCORES + better, 1.5, 0.25)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """The cells that were trained; the third one is interrupted the first time."""
    done: list[Cell] = []

    def one(cell: Cell) -> Result:
        if cell == CELLS[2] and CELLS[2] not in done:
            done.append(cell)
            raise KeyboardInterrupt
        done.append(cell)
        return made_by_hand(cell)

    monkeypatch.setattr(results, "trained", one)
    return done


def run_all(folder: Path) -> None:
    for cell in results.missing(CELLS, folder):
        results.run(cell, folder)


def test_an_interrupted_benchmark_trains_only_the_cells_that_are_missing(
    tmp_path: Path, trained: list[Cell]
):
    with pytest.raises(KeyboardInterrupt):
        run_all(tmp_path)
    assert results.missing(CELLS, tmp_path) == CELLS[2:]
    run_all(tmp_path)
    assert trained == [*CELLS[:3], *CELLS[2:]]
    assert results.missing(CELLS, tmp_path) == []


def test_a_cell_with_other_settings_is_trained_again(tmp_path: Path):
    results.write(CELLS[0], made_by_hand(CELLS[0]), tmp_path)
    for change in ({"steps": 200}, {"seeds": 5}):
        other = dataclasses.replace(CELLS[0], **change)
        assert results.missing([CELLS[0], other], tmp_path) == [other]


def test_another_default_rate_of_the_library_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    results.write(CELLS[3], made_by_hand(CELLS[3]), tmp_path)
    changed = {name: dataclasses.replace(c, default_rate=0.5) for name, c in contenders().items()}
    monkeypatch.setattr("benchmarks.robustness.cell.contenders", lambda: changed)
    assert results.missing([CELLS[3]], tmp_path) == [CELLS[3]]


def test_a_half_written_file_does_not_count(tmp_path: Path):
    file = results.path(CELLS[0], tmp_path)
    file.parent.mkdir()
    file.with_suffix(".part").write_text('{"settings"')
    assert results.missing(CELLS[:1], tmp_path) == CELLS[:1]


def test_numbers_come_back_from_the_file_and_what_is_not_finite_as_nan(tmp_path: Path):
    scores = SCORES.copy()
    scores[1, 2] = np.nan, np.inf, 3.0
    results.write(CELLS[0], made_by_hand(CELLS[0])._replace(scores=scores), tmp_path)
    found = results.read(CELLS[0], tmp_path)
    assert found is not None
    expected = np.where(np.isfinite(scores), scores, np.nan)
    np.testing.assert_array_equal(found.scores, expected)
    assert found.step_seconds == 0.25


def test_the_page_shows_the_cells_as_they_are_in_the_files(tmp_path: Path):
    for cell in CELLS:
        results.write(cell, made_by_hand(cell), tmp_path)
    cases = complete_cases(results.results(CELLS, tmp_path), list(contenders()))
    written = page(cases, 3)
    # At the default 84.0 + 3, at three times it 87.0 + 3; Muon's best is one point less: a loss of
    # two points.
    row = "| relu-mlp | 8 | constant | 84.0 → 87.0 (3) | 85.0 → 88.0 (3) | 86.0 → 89.0 (3) "
    assert row + "| 87.0 → 90.0 (3) | -2.0 | loss |" in written
    rate = contenders()["INSGD"].default_rate
    assert f"| INSGD | {rate:g} | 2 | 0 | 0% | 0 | 0 | 2 | 0 |" in written
    assert "- relu-mlp, batch 8, constant: -2.0 against Muon (tolerance 1.0)" in written
    draw(tmp_path / "figure.png", cases)
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_place_where_an_optimizer_is_missing_is_left_out(tmp_path: Path):
    for cell in CELLS[:3]:
        results.write(cell, made_by_hand(cell), tmp_path)
    assert complete_cases(results.results(CELLS, tmp_path), list(contenders())) == []
    assert "has been run with all optimizers" in page([], 3)
