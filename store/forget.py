"""Forget: one person's rows are deleted, and the key under which they were sealed is shredded.

    rows under the key ─▶ one commit: their deletes, a Notice ─▶ tables on disk ─▶ zeros over the key

Invariants
  (1) no byte of the log changes: what was sealed stays, and nobody can open it;
  (2) the Notice is the truth: killed after it, opening goes on from there (`finish`);
  (3) a key is shredded only after what its rows were needed for, their entries in indexes, is on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from everlog.proto import log_pb2
from everlog.store import codec, keys
from everlog.store.engine import Engine
from everlog.store.errors import Error, RowError
from everlog.store.fields import descriptor_of, encode_values, resolve
from everlog.store.projection import SHREDDED
from everlog.store.projector import build_index
from everlog.store.schema import TableInfo
from everlog.store.tables import Tables
from everlog.store.transaction import Metadata, Transaction
from everlog.store.write import Write

if TYPE_CHECKING:
    from everlog.store.database import Database


class Forgotten(NamedTuple):
    """Where it is in the log, which key is gone, and how many rows went with it."""

    seq: int
    key_id: bytes
    rows: int


def forget(db: Database, name: str, key: Any, person: Any, metadata: Metadata) -> Forgotten:
    """See `Database.forget`."""
    if not db.engine.rebuilding.acquire(blocking=False):
        raise Error("the tables are being rebuilt, with the keys that there are; forget when that is through")
    try:
        return _forget(db, name, key, person, metadata)
    finally:
        db.engine.rebuilding.release()


def _forget(db: Database, name: str, key: Any, person: Any, metadata: Metadata) -> Forgotten:
    committer, tables = db.committer, db.tables
    with committer.alone():
        info = tables.schema.table(name)
        if info.sealing is None:
            raise RowError(f"table {name} names no person: its rows are not sealed", table=name)
        info.sealing.check()
        key_id = _of_row(tables, info, key) if person is None else _of_person(info, person)
        tables.flush()
        transaction = Transaction(db, metadata)
        for row in rows_under(tables, key_id):
            transaction.writes[row.full] = row
        notice = log_pb2.Notice(kind=SHREDDED, subject=name, detail=key_id)
        transaction.about = lambda commit: commit.notice.CopyFrom(notice)
        seq = committer.commit_alone(transaction, sync=True)
        shred(db.engine, tables)
    return Forgotten(seq, key_id, len(transaction.writes))


def rows_under(tables: Tables, key_id: bytes) -> Iterator[Write]:
    """The deletes of all rows that are sealed with a key."""
    start = keys.NOTE_OF_KEY + key_id
    for note, _ in tables.target.view.items(start, codec.after(start)):
        space: int = keys.SPACE.unpack_from(note, len(start))[0]
        info = tables.schema.spaces.get(space)
        if info is not None:
            yield Write(info, log_pb2.DELETE, note[len(start) + keys.SPACE.size :], b"", [])


def shredded(tables: Tables) -> list[bytes]:
    """The ids of all keys that were ever shredded, as the tables know. Read-only."""
    start = keys.NOTE_SHREDDED
    tables.flush()
    return [note[len(start) :] for note, _ in tables.target.view.items(start, codec.after(start))]


def shred(engine: Engine, tables: Tables) -> None:
    """Writes zeros over every key that the log says is gone, once the tables are on disk."""
    assert tables.vault is not None
    gone = [key_id for key_id in shredded(tables) if tables.vault.has(key_id)]
    if gone:
        engine.flush()
        tables.vault.forget(gone)


def has_sealed(tables: Tables) -> bool:
    """Whether there are sealed rows. Read-only."""
    start = keys.NOTE_OF_KEY
    return bool(tables.target.view.head(start, codec.after(start), 1))


def finish(engine: Engine, tables: Tables, *, read_only: bool) -> None:
    """On opening: what was cut short is done, and what could not be done for want of keys."""
    vault = tables.vault
    assert vault is not None
    if not vault.exists and has_sealed(tables):
        vault.missing()
    if not read_only:
        shred(engine, tables)
    mend(tables, read_only=read_only)


def mend(tables: Tables, *, read_only: bool = False) -> None:
    """Makes entries in indexes that are missing for want of keys, if those are there now."""
    vault = tables.vault
    assert vault is not None
    start = keys.NOTE_BARE
    for note, _ in list(tables.target.view.items(start, codec.after(start))):
        if vault.locked:
            return
        if read_only:
            vault.locked = "its indexes have yet to be made, with the keys: open it once for writing"
            return
        info = tables.schema.spaces.get(keys.SPACE.unpack_from(note, len(start))[0])
        for index in info.indexes.values() if info else ():
            assert info is not None
            if not index.building:
                tables.target.delete(index.prefix, keys.prefix(info.space, index.id + 1))
                build_index(tables.target, info, index)
        tables.target.delete(note, codec.after(note))


def _of_row(tables: Tables, info: TableInfo, key: Any) -> bytes:
    encoded = info.encode_key(key)
    value = tables.get(info.row_prefix + encoded)
    key_id = keys.key_id_of(value) if value is not None else b""
    if not key_id:
        raise RowError(
            f"there is no row {info.show_key(encoded)}; where it was deleted before, forget its person by the"
            f" value of {_person_name(info)} (person=…, --person)",
            table=info.name,
        )
    return key_id


def _of_person(info: TableInfo, person: Any) -> bytes:
    assert info.sealing is not None
    path = resolve(descriptor_of(info.model), info.proto.person.numbers)
    found = info.sealing.vault.find(encode_values(person, (path,), f"the person of {info.name}"))
    if found is None:
        raise RowError(
            f"there is no key for that {_person_name(info)}: nobody of that value, or forgotten already",
            table=info.name,
        )
    return found


def _person_name(info: TableInfo) -> str:
    return ".".join(step.name for step in resolve(descriptor_of(info.model), info.proto.person.numbers))
