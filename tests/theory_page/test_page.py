"""docs/theory.md beside the experiments that it is made from."""

import importlib
import pathlib
import pkgutil
import re

import theory
from theory.check import Check, number
from theory.page import SECTIONS, heading, table

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def test_the_page_has_a_section_for_every_theorem():
    page = (DOCS / "theory.md").read_text()
    found = {
        getattr(module, name)
        for info in pkgutil.iter_modules(theory.__path__)
        if info.name != "__main__"
        for module in [importlib.import_module(f"theory.{info.name}")]
        for name in dir(module)
        if re.fullmatch(r"t\d+", name)
    }
    assert found <= set(SECTIONS)
    for experiment in SECTIONS:
        assert heading(experiment) + "\n" in page, f"run python -m theory: {experiment}"
    numbers = [int(n) for n in re.findall(r"^### T(\d+)\.", page, flags=re.MULTILINE)]
    assert numbers == list(range(1, 23))


def test_the_figures_of_the_page_exist():
    page = (DOCS / "theory.md").read_text()
    linked = re.findall(r"!\[.+?\]\((.+?)\)", page)
    assert len(linked) == 5
    for link in linked:
        assert (DOCS / link).stat().st_size > 5000


def test_a_check_that_measures_no_number_does_not_hold():
    for kind in ("equal", "at most", "at least"):
        assert not Check("", 1.0, float("nan"), 10.0, kind).holds
        assert Check("", 1.0, 1.0, 0.0, kind).holds
    assert not Check("", 1.0, 1.2, 0.1, "at most").holds
    assert not Check("", 1.0, 0.8, 0.1, "at least").holds


def test_the_tables_show_four_digits_and_no_rounding_noise():
    assert [number(x) for x in (1e-17, -3e-12, 0.123456, 13017.6)] == ["0", "0", "0.1235", "13,020"]
    assert "| a \\| b | ≤ 1 | 0.5 |" in table([Check("a | b", 1.0, 0.5, 0.0, "at most")])
