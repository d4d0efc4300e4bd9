"""Plain text as Markdown that shows it unchanged."""

from __future__ import annotations

import re

_CODE = re.compile(r"(`[^`]*`)")
_MARKUP = re.compile(r"([\\*<>\[\]#]|(?<!\w)_|_(?!\w))")


def escaped(text: str) -> str:
    """Return `text` with a backslash before all markup, except in `code`."""
    parts = _CODE.split(text)
    return "".join(part if part.startswith("`") else _MARKUP.sub(r"\\\1", part) for part in parts)


def cell(text: str) -> str:
    """Return `text` as a cell of a table: escaped, on one line."""
    return escaped(" ".join(text.split())).replace("|", "\\|")
