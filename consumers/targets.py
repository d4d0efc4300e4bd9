"""Target: a sink from a URL, as `everlog follow --to` takes it."""

from __future__ import annotations

from everlog.consumers.follower.sink import Sink
from everlog.consumers.sqlite.sink import SqliteSink
from everlog.store.errors import SinkError


def open_sink(url: str) -> Sink:
    """The sink that a URL names: `sqlite:PATH`. Nothing is opened yet. Raises SinkError."""
    scheme, colon, path = url.partition(":")
    if scheme == "sqlite" and path:
        return SqliteSink(path.removeprefix("//"))
    found = f"{scheme}:" if colon else repr(url)
    raise SinkError(f"expected a target like sqlite:PATH, found {found}")
