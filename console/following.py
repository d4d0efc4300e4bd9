"""Following: the feed of whatever database a command was given, for as long as it wants.

server         subscribes, and goes on where it was when the connection comes back
file, read     what is there; then looks again, for another process writes to it
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from everlog.console.opening import is_remote, open_database
from everlog.console.settings import Settings
from everlog.feed.embedded import EmbeddedDatabase
from everlog.feed.message import FeedBatch
from everlog.proto import log_pb2
from everlog.store.errors import OpenError

if TYPE_CHECKING:
    from everlog.console.opening import AnyDatabase

LOOK_EVERY_S = 0.5


def batches(
    db: AnyDatabase,
    after: log_pb2.Cursor,
    *,
    until: int | None,
    tables: Sequence[str],
    follow: bool,
) -> Iterator[FeedBatch]:
    """What comes after a cursor: up to now, or, with `follow`, for ever or up to `until`."""
    names = list(tables) or None
    if not follow or not isinstance(db, EmbeddedDatabase) or not db.read_only:
        with db.feed(after, tables=names, until=until, bounded=not follow) as feed:
            yield from feed.batches()
        return
    position = after
    while until is None or position.seq < until:
        with db.feed(position, tables=names, until=until, bounded=True) as feed:
            for batch in feed.batches():
                position = batch.mark.position
                yield batch
        look_again(db)


def register(settings: Settings, url: str | None, name: str) -> None:
    """Sees to it that a consumer is registered, where it is to be followed beside who writes: a name that is
    new is registered by opening the database for writing, for a moment. Raises OpenError if it is open."""
    if is_remote(url or settings.url):
        return
    with open_database(settings, url=url, read_only=True) as db:
        if any(one.name == name for one in db.consumers):
            return
    try:
        with open_database(settings, url=url) as db:
            db.consumers.register(name, take=False)
    except OpenError as error:
        raise OpenError(f"consumer {name!r} is new, and has to be registered first: {error}") from None


def look_again(db: EmbeddedDatabase) -> None:
    """Waits a moment, and sees what another process has written since."""
    time.sleep(LOOK_EVERY_S)
    db.refresh()
