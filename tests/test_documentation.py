"""Every Python block of the README and of the pages runs, in order, as a reader would run it."""

import pathlib
import re

import jax
import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.framework
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_blocks_of_a_page_run_from_top_to_bottom(page: pathlib.Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert blocks, f"{page.name} shows no code"
    names: dict[str, object] = {"__name__": page.stem}
    with jax.enable_x64(False):  # as it is for a reader
        for block in blocks:
            exec(compile(block, str(page), "exec"), names)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 120
