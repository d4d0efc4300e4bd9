"""Erase: delete one person's rows, and shred the key that sealed them.

    rows under the key ─▶ one commit: their deletes, a Notice ─▶ tables on disk ─▶ overwrite the key

Invariants
  (1) no byte of the log changes: sealed rows stay, and nobody can unseal them;
  (2) the Notice is the truth: killed after it, the next opening completes the work (upkeep/recovery.py);
  (3) the caller learns what stays readable (upkeep/personal_data.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nlargest
from typing import Any, NamedTuple

from everlog.proto import log_pb2
from everlog.store import keys
from everlog.store.core import Core
from everlog.store.errors import DiskError, Error, RowError, SealedError
from everlog.store.schema import codec
from everlog.store.schema.fields import descriptor_of, encode_values, resolve
from everlog.store.schema.schema import Schema, TableInfo
from everlog.store.tables.projection import SHREDDED
from everlog.store.tables.tables import Tables
from everlog.store.tx.transaction import Metadata, Transaction
from everlog.store.tx.validator import other_content
from everlog.store.tx.write import Write
from everlog.store.upkeep import personal_data
from everlog.store.upkeep.personal_data import Remaining
from everlog.store.upkeep.recovery import build_missing_entries, shred

LOOK_BACK = 100  # how many forgotten persons are searched for a row


class Forgotten(NamedTuple):
    """The commit, the shredded key, the number of deleted rows, and what stays readable."""

    seq: int
    key_id: bytes
    rows: int
    remaining: tuple[Remaining, ...] = ()


class _Known(NamedTuple):
    """What is known of a person being forgotten, in memory only, to find what stays readable."""

    rows: set[personal_data.RowKey]
    person: bytes | None
    words: set[str]
    written: set[int]


class Person(NamedTuple):
    """A person: the owner of the row of a table with this primary key, or the encoded value of the person
    field.

    The other one is None. `space`: the generation by which it was encoded.
    """

    table: str
    space: int
    key: bytes | None
    value: bytes | None


def person_of(schema: Schema, name: str, key: Any, value: Any) -> Person:
    """Return the person named by the key of a row, or by a value. Raises RowError and SchemaError."""
    if (key is None) == (value is None):
        raise RowError("expected the key of a row, or a person; found both or neither", table=name)
    info = _people(schema.table(name))
    if key is not None:
        return Person(name, info.space, info.encode_key(key), None)
    path = resolve(descriptor_of(info.model), info.proto.person.numbers)
    return Person(name, info.space, None, encode_values(value, (path,), f"the person of {name}"))


def forget(core: Core, who: Person, metadata: Metadata) -> Forgotten:
    """See `Database.forget`. Raises SchemaError with `moved` if the rows are of another generation."""
    if not core.engine.rebuilding.acquire(blocking=False):
        raise Error("the tables are being rebuilt with the current keys; try again when that has finished")
    try:
        with core.committer.alone():
            shred(core.engine, core.tables)  # keys that the disk refused to overwrite before
            done, known = _repeated(core, who, metadata) or _forget(core, who, metadata)
    finally:
        core.engine.rebuilding.release()
    try:  # others commit again meanwhile
        remaining = personal_data.remaining(core, *known)
    except Error as error:
        remaining = (Remaining("unknown", f"what else stays readable is unknown: {error}", ()),)
    return done._replace(remaining=remaining)


def export(core: Core, who: Person) -> Iterator[bytes]:
    """See `People.stream`."""
    info = _people(core.schema.generation(who.table, who.space))
    assert info.sealing is not None
    info.sealing.check()
    if who.key is None:
        key_id = info.sealing.vault.find(who.value or b"") if info.sealing.vault.exists else None
        return personal_data.export(core, info.name, key_id or b"", who.value, None)
    row = (info.proto.id, who.key)
    value = core.tables.get(info.row_prefix + who.key)
    key_id = keys.key_id_of(value) if value is not None else personal_data.key_id_in_log(core, row)
    known = _known(core, key_id) if key_id else None
    return personal_data.export(core, info.name, key_id or b"", known.person if known else None, row)


def _known(core: Core, key_id: bytes) -> _Known:
    """Return what is known of a person whose rows can still be unsealed."""
    known = _Known(set(), None, set(), set())
    for info, key, value in personal_data.live(core, key_id):
        known.rows.add((info.proto.id, key))
        known.written.add(keys.seq_of(value))
        try:
            row = info.salvage(info.row_in(key, value))
        except SealedError:
            continue
        known.words.update(personal_data.words_of([row]))
        if info.sealing is not None:
            known = known._replace(person=info.sealing.person_of(row))
    return known


def _forget(core: Core, who: Person, metadata: Metadata) -> tuple[Forgotten, _Known]:
    tables = core.tables
    info = _people(tables.schema.generation(who.table, who.space))
    assert info.sealing is not None
    info.sealing.check()
    tables.flush()
    key_id = _of_row(core, info, who.key) if who.key is not None else _of_value(info, who.value or b"")
    known = _known(core, key_id)
    if who.value is not None:
        known = known._replace(person=who.value)
    transaction = Transaction(core, metadata)
    for row in rows_under(tables, key_id):
        transaction.writes[row.full] = row
    notice = log_pb2.Notice(kind=SHREDDED, subject=who.table, detail=key_id)
    missing = not info.sealing.vault.has(key_id)
    seq = core.committer.commit_alone(
        transaction, sync=True, about=lambda commit: commit.notice.CopyFrom(notice)
    )
    info.sealing.vault.let_go([key_id])  # even if the disk refuses: the key must not be used any more
    try:
        shred(core.engine, tables)
    except DiskError as error:
        core.committer.retry()
        raise DiskError(
            f"record {seq} forgets a person of {who.table} and deletes their rows, but their key could not be"
            f" overwritten ({error}). This is tried again once a second, and when the database is opened;"
            " `everlog status` reports it until it is done",
            outcome="written",
        ) from error
    if missing:
        tables.flush()
        build_missing_entries(tables)
    return Forgotten(seq, key_id, len(transaction.writes)), known


def _repeated(core: Core, who: Person, metadata: Metadata) -> tuple[Forgotten, _Known] | None:
    """Return the result of the commit with this id, if its answer was lost. The person's value is no longer
    known."""
    seq = core.committer.validator.known(metadata.commit_id) if metadata.commit_id else None
    if seq is None:
        return None
    commit = core.log.commit(seq)
    if (commit.actor, commit.reason) != (metadata.actor, metadata.reason) or not _forgot(commit, who):
        raise other_content(metadata.commit_id, seq)
    spaces = core.schema.spaces
    rows = {(spaces[one.space].proto.id, one.key) for one in commit.changes if one.space in spaces}
    known = _Known(rows, who.value, set(), {one.prior for one in commit.changes})
    return Forgotten(seq, commit.notice.detail, len(commit.changes)), known


def _forgot(commit: log_pb2.Commit, who: Person) -> bool:
    """Return whether a commit forgot this person, as far as it can be determined."""
    notice = commit.notice
    by = (notice.kind, notice.subject) == (SHREDDED, who.table)
    return by and (who.key is None or _deleted(commit, who))


def _deleted(commit: log_pb2.Commit, who: Person) -> bool:
    return any((one.space, one.key) == (who.space, who.key) for one in commit.changes)


def rows_under(tables: Tables, key_id: bytes) -> Iterator[Write]:
    """Yield the deletes of all rows that are sealed with a key."""
    start = keys.NOTE_OF_KEY + key_id
    for note, _ in tables.target.view.items(start, codec.after(start)):
        space: int = keys.SPACE.unpack_from(note, len(start))[0]
        info = tables.schema.spaces.get(space)
        if info is not None:
            yield Write(info, log_pb2.DELETE, note[len(start) + keys.SPACE.size :], b"", [])


def _people(info: TableInfo) -> TableInfo:
    if not info.sealed:
        raise RowError(f"table {info.name} has no person field: its rows are not sealed", table=info.name)
    return info


def _of_row(core: Core, info: TableInfo, key: bytes) -> bytes:
    value = core.tables.get(info.row_prefix + key)
    key_id = keys.key_id_of(value) if value is not None else b""
    if not key_id:
        gone = _gone_with(core, Person(info.name, info.space, key, None))
        why = (
            f": commit {gone} deleted it, and forgot its person"
            if gone
            else f"; if it was deleted before, forget its person by the value of {_person_name(info)}"
            " (person=…, --person)"
        )
        raise RowError(f"there is no row {info.show_key(key)}{why}", table=info.name, forgotten=gone)
    return key_id


def _gone_with(core: Core, who: Person) -> int | None:
    """Return the seq of the commit that forgot the person of a row, if it is one of the last LOOK_BACK."""
    start = keys.NOTE_SHREDDED
    notes = core.tables.target.view.items(start, codec.after(start))
    seqs = (keys.SEQ.unpack(value)[0] for _, value in notes)
    last = nlargest(LOOK_BACK, seqs)
    return next((seq for seq in last if seq >= core.log.oldest and _deleted(core.log.commit(seq), who)), None)


def _of_value(info: TableInfo, value: bytes) -> bytes:
    assert info.sealing is not None
    found = info.sealing.vault.find(value)
    if found is None:
        raise RowError(
            f"there is no key for that {_person_name(info)}: no person has it, or they were"
            " forgotten already",
            table=info.name,
        )
    return found


def _person_name(info: TableInfo) -> str:
    return ".".join(step.name for step in resolve(descriptor_of(info.model), info.proto.person.numbers))
