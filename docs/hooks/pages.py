"""Pages of the site that lie elsewhere in the repository, and links to its other files."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
REPORTS = (f"report/{suite}/report.{end}" for suite in ("quick", "full") for end in ("md", "png"))
# Paths on the site, and those in the repository.
ELSEWHERE = {"changelog.md": "CHANGELOG.md"} | {each: f"benchmarks/{each}" for each in REPORTS}
OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Without a repository's address there is nothing to edit."""
    if not config.repo_url:
        config.repo_url, config.edit_uri = None, None
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for place, source in ELSEWHERE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, config: MkDocsConfig, **_: object) -> str:
    """A link to a file outside of ``docs`` goes to its page here, or to the repository."""
    inside = {source: place for place, source in ELSEWHERE.items()}

    def linked(found: re.Match[str]) -> str:
        path = found.group(1)
        if path in inside:
            return f"]({inside[path]})"
        return f"]({config.repo_url}/blob/main/{path})" if config.repo_url else "](index.md)"

    return OUTSIDE.sub(linked, markdown)
