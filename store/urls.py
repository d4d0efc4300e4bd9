"""URLs: names of databases, and of places for backups and archives.

    PATH   file:PATH   file://PATH                a directory of this machine
    memory:                                       a temporary database
    everlog://HOST…   everlog+insecure://HOST…    a database on a server    (rpc/address.py)
    SCHEME://…                                    an object store           (audit/place.py)

A word of letters before the first colon is a scheme; `./a:b` is a path.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from everlog.store.errors import OpenError

FILE = "file"

_WORD = re.compile(r"[A-Za-z+]{2,}")


class Url(NamedTuple):
    """A URL in two parts: the scheme, `file` for a path, and what follows it without the slashes."""

    scheme: str
    rest: str


def parse(url: str) -> Url:
    """Split a URL or a path."""
    scheme, colon, rest = url.partition(":")
    if colon and (rest.startswith("//") or _WORD.fullmatch(scheme)):
        return Url(scheme, rest.removeprefix("//"))
    return Url(FILE, url)


def directory(url: str, *, expected: str = "file:PATH") -> Path:
    """Return the directory that a path or a `file:` URL names.

    `expected` is what the error message asks for. Raises OpenError for an empty name and for another scheme.
    """
    scheme, rest = parse(url)
    if scheme != FILE:
        raise OpenError(f"expected {expected}, found a URL of scheme {scheme!r}")
    if not rest.strip():
        raise OpenError(
            f"expected {expected}, found {f'{url.strip()} without a path' if url.strip() else 'an empty one'}"
        )
    return Path(rest)


def without_secrets(url: str) -> str:
    """Return a URL for messages: without user, password and query. A path is returned unchanged."""
    scheme, rest = parse(url)
    if scheme == FILE or not rest:
        return url
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
