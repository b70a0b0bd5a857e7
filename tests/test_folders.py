"""Which folder imports from which: the capture and the transformations stay strangers."""

import ast
from pathlib import Path

import pytest

import insgd_optax

ROOT = Path(insgd_optax.__file__).parent
# A part of the package, and the parts that it must not import from.
APART = {
    "transforms": ("capture", "explain", "presets", "groups"),
    "groups": ("capture", "explain", "presets"),
    "structures": ("capture", "explain", "presets", "groups", "transforms"),
    "capture": ("explain", "presets", "groups", "transforms", "optimizers"),
    "trees": ("capture", "explain", "presets", "groups", "transforms"),
    "moments": ("capture", "explain", "presets", "groups", "transforms"),
}


def _imports(part: str) -> set[str]:
    """The parts of the package that a folder or module imports from."""
    single = ROOT / f"{part}.py"
    found: set[str] = set()
    for file in [single] if single.exists() else sorted((ROOT / part).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "insgd_optax":
                names = [f"insgd_optax.{name.name}" for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            found |= {name.split(".")[1] for name in names if name.startswith("insgd_optax.")}
    return found


@pytest.mark.parametrize("part", APART)
def test_a_part_does_not_import_from_those_above_or_beside_it(part: str) -> None:
    imported = _imports(part)
    assert imported, f"nothing of {part} was read"
    assert not imported & set(APART[part])


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda file: file.stem)
def test_names_that_jax_may_change_are_imported_in_compat_alone(file: Path) -> None:
    outside = file.name != "compat.py"
    assert not (outside and ("jax.extend" in file.read_text() or "jax._src" in file.read_text()))
