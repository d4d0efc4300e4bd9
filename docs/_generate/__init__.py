"""The generated pages, as a Sphinx extension.

    <!-- generated: commands -->    in a page  ──▶  the Markdown of commands.markdown()

The pages hold links that a code host understands. Links to Markdown that lies outside of docs/ lead to the
pages that include it.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

MARK = re.compile(r"<!-- generated: (\w+) -->")
OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "examples/flights/README.md": "example.md",
}
LINK = re.compile(rf"\]\((?P<up>(?:\.\./)+)(?P<page>{'|'.join(map(re.escape, OUTSIDE))})")


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the extension with Sphinx."""
    app.connect("env-get-outdated", _generated_pages)
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "version": "1"}


def _generated_pages(_: Sphinx, env: BuildEnvironment, *__: set[str]) -> list[str]:
    """The pages to read in every build: what they are made of may have changed."""
    return [name for name in env.found_docs if MARK.search(env.doc2path(name).read_text(encoding="utf-8"))]


def _read(_: Sphinx, name: str, source: list[str]) -> None:
    """Replace the marks and links of a page, before it is parsed."""
    text = MARK.sub(lambda mark: _generated(mark[1]), source[0])
    source[0] = LINK.sub(lambda link: _inside(name, link), text)


def _generated(name: str) -> str:
    text: str = import_module(f"_generate.{name}").markdown()
    return text


def _inside(name: str, link: re.Match[str]) -> str:
    depth = name.count("/")
    if link["up"].count("/") != depth + 1:
        return link[0]
    return f"]({'../' * depth}{OUTSIDE[link['page']]}"
