"""Presets: the sources' own rules as chains of the library's parts, with one preset per file.

Normalized LMS, Algorithm 1 of the paper, the authors' released code and their project page divide
by different quantities in different orders. ``docs/sources.md`` compares them with `insgd`.
"""

from insgd_optax.presets.nlms import nlms
from insgd_optax.presets.paper import paper
from insgd_optax.presets.project_page import project_page
from insgd_optax.presets.released import released

__all__ = ["nlms", "paper", "project_page", "released"]
