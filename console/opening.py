"""Opening: the library's database behind the URL that a command was given.

    file:PATH                          embedded: this process alone writes to it
    everlog://HOST:PORT/NAME           a server's

A command that only reads opens read-only, so that it works beside a process that writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from everlog.console.settings import Settings
from everlog.rpc import address, connect
from everlog.store.errors import OpenError, UnavailableError

if TYPE_CHECKING:
    from everlog.feed.embedded import EmbeddedDatabase
    from everlog.rpc.remote import RemoteDatabase

    AnyDatabase = EmbeddedDatabase | RemoteDatabase

T = TypeVar("T")

TRY_EVERY_S = 0.25


def open_database(
    settings: Settings, *, url: str | None = None, create: bool = False, read_only: bool = False
) -> AnyDatabase:
    """The database of the settings, or of `url`, after waiting for it where that was asked for."""
    where = url or settings.url
    settings.read_files()  # the token may be in one

    def open_it() -> AnyDatabase:
        return connect.open(where, create=create, read_only=read_only)

    return waited_for(open_it, settings.wait_timeout_s) if settings.wait and not create else open_it()


def waited_for(attempt: Callable[[], T], timeout_s: float) -> T:
    """Tries until it succeeds; raises what the last attempt raised once the time is over."""
    until = time.monotonic() + timeout_s
    while True:
        try:
            return attempt()
        except (UnavailableError, OpenError) as error:
            if time.monotonic() >= until:
                raise type(error)(f"{error} (waited {timeout_s:g} s)", **error.facts) from None
            time.sleep(TRY_EVERY_S)


def is_remote(url: str) -> bool:
    return address.is_url(url)


def directory_of(url: str) -> Path:
    """The directory of an embedded database. Raises OpenError for another kind of URL."""
    if is_remote(url):
        raise OpenError(f"{shown(url)} is on a server; this works on a database of this machine, file:PATH")
    path = url.removeprefix("file:").removeprefix("//") if url.startswith("file:") else url
    if url == "memory:" or "://" in path or not path:
        raise OpenError(f"expected a database of this machine, file:PATH, found {shown(url)}")
    return Path(path)


def shown(url: str) -> str:
    """The URL without what is secret in it."""
    if is_remote(url):
        return str(address.parse(url))
    scheme, there, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if there else url
