"""People: the calls about persons in one open database: `db.people`.

    forget      delete a person's rows, and shred the key that sealed them
    export      all data about one person (upkeep/personal_data.py)
    readable    data about persons that no key protects
    rotate_key  put all keys under another master key (crypto/vault.py)

    forget: rows under the key ─▶ one commit: their deletes, a Notice ─▶ tables on disk ─▶ overwrite the key

Invariants
  (1) no byte of the log changes: sealed rows stay, and nobody can unseal them;
  (2) the Notice is the truth: killed after it, the next opening completes the work (upkeep/recovery.py);
  (3) the caller learns what stays readable (upkeep/personal_data.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import nlargest
from typing import Any, NamedTuple, TypeVar

import msgspec
from google.protobuf.message import Message

from everlog.proto import log_pb2
from everlog.store import keys
from everlog.store.core import Core
from everlog.store.crypto.master_key import MasterKey, next_master_of
from everlog.store.crypto.vault import ROTATED, rotate
from everlog.store.errors import DiskError, Error, RowError, SealedError
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema import arguments, codec
from everlog.store.schema.descriptors import descriptor_of, dotted, encode_values, resolve
from everlog.store.schema.schema import Schema, TableInfo
from everlog.store.schema.table import Table
from everlog.store.tables.projection import SHREDDED
from everlog.store.tables.tables import Tables
from everlog.store.tx.transaction import Metadata, Transaction
from everlog.store.tx.validator import other_content
from everlog.store.tx.write import Write
from everlog.store.upkeep import personal_data
from everlog.store.upkeep.personal_data import Remaining
from everlog.store.upkeep.recovery import build_missing_entries, shred

LOOK_BACK = 100  # how many forgotten persons are searched for a row

M = TypeVar("M", bound=Message)
K = TypeVar("K")


class People:
    """Persons in one open database. `begin` begins a transaction with metadata, which it checks."""

    def __init__(self, core: Core, begin: Callable[..., Transaction]) -> None:
        self._core = core
        self._begin = begin

    def forget(
        self,
        table: Table[M, K] | str,
        key: K | None = None,
        *,
        person: Any = None,
        **metadata: Any,
    ) -> Forgotten:
        """Erase one person: the owner of the row with this primary key, or the one with this value of the
        table's `person` field. Writes.

        All their rows, in all tables, are deleted in one commit, and the key that sealed them is shredded:
        their data in the log can no longer be read. The result lists what stays readable all the same
        (`remaining`). With a `commit_id`, a repeated call returns the first result. Raises RowError if the
        row or the person does not exist, SealedError without the master key.
        """
        self._core.check_writable()
        who = person_of(self._core.schema, arguments.table_name(table), key, person)
        return self.forget_person(who, self._begin(**metadata).metadata)

    def forget_person(self, who: Person, metadata: Metadata) -> Forgotten:
        """Do `forget` for a person that is resolved already."""
        self._core.check_writable()
        forgotten = forget(self._core, who, metadata)
        self._core.log.notify()
        return forgotten

    def export(self, table: Table[M, K] | str, key: K | None = None, *, person: Any = None) -> dict[str, Any]:
        """Return all data about one person, named as in `forget`, as values of JSON. Read-only; reads the
        whole log.

        It has the rows of all tables, every version in the log, also from before a table was sealed, the
        commits that wrote them, texts that mention them, and the state of their key. Raises RowError if
        there is no data, SealedError without the master key.
        """
        found: dict[str, Any] = msgspec.json.decode(b"".join(self.stream(table, key, person=person)))
        return found

    def stream(
        self, table: Table[M, K] | str, key: K | None = None, *, person: Any = None
    ) -> Iterator[bytes]:
        """Return the result of `export` as pieces of one JSON object, in bounded memory. Raises the same
        errors, before the first piece."""
        self._core.check_open()
        who = person_of(self._core.schema, arguments.table_name(table), key, person)
        return export(self._core, who)

    def readable(self) -> list[personal_data.Remaining]:
        """Return data about persons that is readable without keys: rows from before their table was sealed,
        texts of migrations with rows, primary keys that identify persons. Read-only."""
        self._core.check_open()
        return list(personal_data.readable(self._core))

    def rotate_key(
        self, master_key: MasterKey | None = None, progress: OnProgress | None = None, **metadata: Any
    ) -> int:
        """Put all keys under another master key while others read and write. Return their number. Writes.

        `master_key`: the new one; None: the next one that the environment names. If the keys are under it
        already, it returns 0. Afterwards the database opens only with the new one. Interrupted work resumes
        where it stopped. A Notice with `actor` and `reason` is written first. Raises SealedError without
        the old key, OpenError without a new one.
        """
        self._core.check_writable()
        total, master, vault = 0, next_master_of(master_key), self._core.vault
        transaction = self._begin(**metadata, durability="sync")

        def notify(id: bytes) -> None:
            notice = log_pb2.Notice(kind=ROTATED, detail=id)
            self._core.commit(transaction, lambda commit: commit.notice.CopyFrom(notice))

        if not vault.changing.acquire(blocking=False):
            raise Error(
                f"the master key of {self._core.url} is being changed already; wait for it, and ask again"
            )
        try:
            for done, total in rotate(vault, master, notify):
                if progress is not None:
                    progress(Progress("rotate keys", done, total, "keys"))
        finally:
            vault.changing.release()
        return total


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
    """See `People.forget`. Raises SchemaError with `moved` if the rows are of another generation."""
    if not core.engine.rebuilding.acquire(blocking=False):
        raise Error("the tables are being rebuilt with the current keys; try again when that has finished")
    try:
        with core.committer.exclusive():
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
        key_id = info.sealing.vault.find(who.value or b"") if info.sealing.vault.is_open else None
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
    seq = core.committer.commit_exclusive(
        transaction, sync=True, about=lambda commit: commit.notice.CopyFrom(notice)
    )
    info.sealing.vault.retire([key_id])  # even if the disk refuses: the key must not be used any more
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
    seqs = (keys.SEQ.unpack(value)[0] for _, value in core.tables.notes(keys.NOTE_SHREDDED))
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
    return dotted(resolve(descriptor_of(info.model), info.proto.person.numbers))
