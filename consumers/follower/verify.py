"""Verify: prove that a sink equals the tables that it follows, as of its position.

    database ─▶ (rows, hash) of each table ┐     as of the sink's position
                                           ├──▶ differences, or none
    sink ─▶ rows ─▶ (rows, hash)           ┘

The hash is the content hash (everlog.store.tables.hashing). A sink computes its rows from what readers of
the target see, so a value that was changed by hand is a difference as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from everlog.consumers.follower.sink import Sink
from everlog.store.errors import SinkError, quantity
from everlog.store.progress import OnProgress, Progress
from everlog.store.tables.hashing import TableHash, content_hash


class Hashes(Protocol):
    """The part of `db.admin` that a verification needs."""

    def hashes(self, *, seq: int) -> Mapping[str, TableHash]: ...


class Hashed(Protocol):
    """The part of a database, embedded or remote, that a verification needs."""

    @property
    def uuid(self) -> bytes: ...
    @property
    def admin(self) -> Hashes: ...


@dataclass(frozen=True)
class Difference:
    """One table that differs, and the difference as a sentence."""

    table: str
    text: str

    def __str__(self) -> str:
        return f"{self.table}: {self.text}"


def verify(db: Hashed, sink: Sink, *, progress: OnProgress | None = None) -> list[Difference]:
    """Return each table in which `sink` differs from `db`; an empty list proves them equal. Read-only.

    The database is read as of the sink's position, so neither its writers nor a lagging follower interfere.
    Raises SinkError if the sink is of another database or moved meanwhile, CursorError if it is ahead of the
    database.
    """
    state = sink.open()
    if state is None or state.position.database != db.uuid:
        raise SinkError(f"{sink.name} does not follow database {db.uuid.hex()}; verify it against its source")
    followed = state.tables
    expected = db.admin.hashes(seq=state.position.seq)
    theirs = {name: one for name, one in expected.items() if not followed or name in followed}
    differences: list[Difference] = []
    for done, name in enumerate(sorted(theirs.keys() | set(sink.tables()))):
        if progress is not None:
            progress(Progress(step=f"verify {name}", done=done, total=len(theirs), unit="tables"))
        difference = _compare(name, theirs, sink)
        if difference:
            differences.append(Difference(name, difference))
    sink.begin(followed)  # raises if another follower moved it
    sink.rollback()
    return differences


def _compare(name: str, theirs: Mapping[str, TableHash], sink: Sink) -> str:
    if name not in theirs:
        return "is in the sink, but not in the database"
    if name not in sink.tables():
        return "is in the database, but not in the sink"
    try:
        found, expected = content_hash(_in_order(sink.rows(name))), theirs[name]
    except SinkError as error:
        return str(error)
    if found.rows != expected.rows:
        return f"has {quantity(found.rows, 'row')} in the sink, {expected.rows} in the database"
    if found.hash != expected.hash:
        return f"has content hash {found.hash.hex()} in the sink, {expected.hash.hex()} in the database"
    return ""


def _in_order(rows: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    last = b""
    for key, row in rows:
        if key <= last:
            raise SinkError(
                f"the sink returned key {key.hex()} after {last.hex()}; expected each key once, in order"
            )
        last = key
        yield key, row
