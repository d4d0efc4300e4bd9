"""Targets: make a sink from a URL, for `everlog follow --to`."""

from __future__ import annotations

from everlog.consumers.follower.sink import Sink
from everlog.consumers.sqlite.sink import SqliteSink
from everlog.store.errors import SinkError


def open_sink(url: str) -> Sink:
    """Return the sink of a URL: `sqlite:PATH`. Opens nothing. Raises SinkError."""
    scheme, colon, path = url.partition(":")
    if scheme == "sqlite" and path:
        return SqliteSink(path.removeprefix("//"))
    found = f"{scheme}:" if colon else repr(url)
    raise SinkError(f"expected a target such as sqlite:PATH, found {found}")
