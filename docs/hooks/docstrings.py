"""Docstrings on the site: formulas as TeX, examples as code, one entry for each argument."""

import re
from pathlib import Path
from typing import Any

import griffe

FORMULA = re.compile(r"^( *)\.\. math::[ ]*\n\n?((?:\1 +.*\n|\n)+)", re.MULTILINE)
INLINE = re.compile(r":math:`([^`]+)`")
EXAMPLE = re.compile(r"^( *)>>>.*(?:\n *\S.*)*", re.MULTILINE)
TOGETHER = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)
NAME = re.compile(r"(?<!`)`(\w+)`(?!`)")
INIT = Path(__file__).parents[2] / "insgd_optax" / "__init__.py"
PUBLIC = set(re.findall(r'^    "(\w+)",$', INIT.read_text(), re.MULTILINE))


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    r"""Markdown of a docstring.

    >>> as_markdown("A power :math:`x^2`.")
    'A power \\(x^2\\).'
    """
    text = TOGETHER.sub(_each_by_itself, FORMULA.sub(_formula, text))
    text = INLINE.sub(lambda found: rf"\({found.group(1)}\)", text)
    text = NAME.sub(_linked, text).replace("``", "`")
    return EXAMPLE.sub(_example, text)


def _formula(found: re.Match[str]) -> str:
    indent, body = found.groups()
    lines = ["$$", *(line.strip() for line in body.strip().splitlines()), "$$"]
    return "".join(f"{indent}{line}\n" for line in lines) + "\n"


def _example(found: re.Match[str]) -> str:
    indent = found.group(1)
    return f"{indent}~~~pycon\n{found.group(0)}\n{indent}~~~"


def _linked(found: re.Match[str]) -> str:
    """A public name as a link to its entry."""
    name = found.group(1)
    return f"[`{name}`][insgd_optax.{name}]" if name in PUBLIC else found.group(0)


def _each_by_itself(found: re.Match[str]) -> str:
    indent, names, text = found.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))
