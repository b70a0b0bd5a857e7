"""Every Python block of the README and of the pages runs, in order, as a reader would run it."""

import ast
import pathlib
import re

import jax
import pytest

import insgd_optax as insgd

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
WITH_CODE = [page for page in PAGES if BLOCK.search(page.read_text())]
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.framework
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_the_code_blocks_of_a_page_run_from_top_to_bottom(page: pathlib.Path) -> None:
    blocks = BLOCK.findall(page.read_text())
    assert blocks, f"{page.name} shows no code"
    names: dict[str, object] = {"__name__": page.stem}
    with jax.enable_x64(False):  # as it is for a reader
        for block in blocks:
            exec(compile(block, str(page), "exec"), names)


def test_the_readme_and_how_to_choose_are_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 120
    assert len((DOCS / "choosing.md").read_text().splitlines()) < 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_finds_it(page: pathlib.Path) -> None:
    targets = [target.partition("#")[0] for target in LINK.findall(page.read_text())]
    files = {target for target in targets if target and "://" not in target}
    assert not [file for file in files if not (page.parent / file).exists()]


def test_every_page_is_in_the_sites_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("nav:")[2]
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert not pages - set(re.findall(r": (\S+\.md)", navigation))


def test_every_public_name_is_in_the_reference() -> None:
    reference = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    entries = set(re.findall(r"^::: (\S+)$", reference, re.MULTILINE))
    public = {f"insgd_optax.{name}" for name in insgd.__all__}
    modules = ("nnx.value_and_grad", "equinox.value_and_grad", "linen.TrainState", "plots.layers")
    assert public | {f"insgd_optax.{name}" for name in modules} <= entries


def _literal(message: ast.expr) -> str:
    """The text of a message, with its names and numbers as one sign."""
    match message:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_literal(part) for part in parts)
        case ast.BinOp(left=left):
            return _literal(left)
    return "…"


def _messages() -> set[str]:
    """The first words of every error of the library, up to the first name or number."""
    found = set()
    for file in (ROOT / "insgd_optax").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                fragments = [
                    part.strip(" '\".,:;=")
                    for part in re.split("…|[.] ", _literal(node.exc.args[0]))
                ]
                words = next((part.split() for part in fragments if len(part.split()) > 1), [])
                found.add(" ".join(words[:4]).rstrip(".,:;"))
    return found - {"", "does not call a", "module 'insgd_optax' has no"}


def test_every_error_is_on_the_page_of_errors() -> None:
    page = " ".join((DOCS / "errors.md").read_text().split())
    assert len(_messages()) > 50
    assert not {words for words in _messages() if words not in page}
