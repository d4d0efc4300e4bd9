"""Check: compare tables, indexes and files with the log, and report each problem.

files   are those that RocksDB's MANIFEST lists, and every block matches its checksum (files.py)
log     every record checks, is dense, and no earlier than the one before
rows    parse, lie under the key that is in them, and were written by a record there is
entries every row has its entry in each index, and every entry its row: by sums over both, and one by one
        only where those differ
keys    of those who were forgotten are not in the key store
deep    every row is what the log says: all tables are made from it once more, elsewhere
notes   counts are right, nothing lies in a space or an index that no schema has; every row with a life
        has its note when it ends, and every such note its row
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from everlog.store import codec, files, head, keys, record
from everlog.store.engine import Engine
from everlog.store.equality import differences
from everlog.store.errors import Error
from everlog.store.index_info import IndexInfo
from everlog.store.mending import shredded_on_disk
from everlog.store.progress import OnProgress, Progress
from everlog.store.rebuild import projector_from_start, replay
from everlog.store.schema import Schema, TableInfo
from everlog.store.tables import read_counts, schema_of
from everlog.store.target import FamilyTarget
from everlog.store.temporary import Temporary
from everlog.store.vault import Vault
from everlog.store.view import View

if TYPE_CHECKING:
    from everlog.store.database import Database

EVERY = 4096
FORGETTING_S = 2.0  # a reader waits so long for a process that may be overwriting a key


def problems(
    db: Database,
    progress: OnProgress | None = None,
    *,
    keys_needed: bool = True,
    files_too: bool = True,
    deep: bool = False,
) -> Iterator[str]:
    """See `Database.check`. Without `keys_needed` it is no problem that sealed tables cannot be looked at: a
    backup has no keys. Without `files_too` the files of RocksDB are left out. Read-only."""
    if db.engine.stopped is not None:  # its files are elsewhere, or others have taken their place
        yield str(db.engine.stopped)
        return
    if files_too:
        yield from files.problems(db.path)
    yield from _keys(db)
    view, seq = db.tables.snapshot()
    try:
        schema, counts = Schema(schema_of(view, db.log), db.schema.vault), read_counts(view)
        yield from _log(db, seq, progress)
        for info in schema.spaces.values():
            if info.sealing is None or not info.sealing.vault.locked:
                yield from _table(db, view, info, seq, counts.get(info.space, 0), progress)
            elif keys_needed:
                why = info.sealing.vault.locked
                yield f"table {info.name} was not looked at: its rows are sealed, and {why}"
        yield from _strays(view, schema)
        yield from _ends(view, schema, counts.get(keys.ENDS, 0))
        if deep:
            yield from _deep(db, view, seq, progress)
    finally:
        view.close()


def _deep(db: Database, view: View, seq: int, progress: OnProgress | None) -> Iterator[str]:
    """Yield the rows that differ from the log. Makes the tables from the log in a temporary directory;
    they need as much room as those of the database."""
    scratch = Temporary("everlog-check-")
    try:
        engine = Engine(scratch.path)
        try:
            target = FamilyTarget(engine)
            projector = projector_from_start(db.log, target, db.schema.vault)
            replay(db.log, projector, seq, progress)
            for info in projector.schema.tables.values():
                yield from differences(view, target.view, info)
        finally:
            engine.close()
    except Error as error:
        yield f"rows could not be compared with the log: {error}"
    finally:
        scratch.remove()


def _keys(db: Database) -> Iterator[str]:
    """Yield a problem if the key store on disk has keys of forgotten people, or lacks keys."""
    vault = db.schema.vault
    if vault is None:
        return
    try:
        if not db.read_only and (lost := vault.lost()):
            yield (
                f"{vault.path} lacks {len(lost):,} keys that this process has: an older copy was put in its"
                " place while the database is open. Bring back the newest copy before this process ends;"
                " where there is none, export the tables that are sealed"
            )
        found = _came_back_beside(db, vault) if db.read_only else vault.came_back()
        if found and not db.read_only:
            with db.committer.alone():  # or it is one that is being forgotten just now
                found = vault.came_back()
    except Error as error:
        yield str(error)
        return
    if found:
        yield (
            f"{vault.path} has the keys of {len(found):,} people who were forgotten, the first"
            f" {found[0].hex()}: an older copy of it was put back, or a process was killed before it"
            " overwrote them. Nothing is read with them here, and `everlog expire` overwrites them where no"
            " process has the database open. Where there is an older copy, destroy that"
        )


def _came_back_beside(db: Database, vault: Vault) -> list[bytes]:
    """The same for a reader. A writer brings its tables to disk before it overwrites a key: a key
    that is gone only in the log has not come back, and the others may be overwritten just now."""
    found = vault.came_back(shredded_on_disk(db.engine))
    until = time.monotonic() + FORGETTING_S
    while found and (db.directory / head.OWNER).exists() and time.monotonic() < until:
        time.sleep(FORGETTING_S / 100)
        found = vault.came_back(found)
    return found


def _log(db: Database, last: int, progress: OnProgress | None) -> Iterator[str]:
    time_ns = 0
    try:
        for seq, framed in db.log.scan(0, last):
            commit = record.decode(framed, seq)
            if commit.time_ns < time_ns:
                yield f"record {seq} of the log is older than the one before it"
            time_ns = commit.time_ns
            if seq == db.log.oldest and not (commit.HasField("created") or commit.HasField("base")):
                yield f"record {seq}, the first of the log, does not say which database it is of"
            if progress is not None and not seq % EVERY:
                progress(Progress("check log", seq, last, "records"))
    except Error as error:
        yield str(error)


def _table(  # noqa: PLR0917  the one call is above
    db: Database, view: View, info: TableInfo, last: int, count: int, progress: OnProgress | None
) -> Iterator[str]:
    if not _adds_up(view, info, last, count, progress):
        yield from _one_by_one(db, view, info, last, count, progress)


def _adds_up(view: View, info: TableInfo, last: int, count: int, progress: OnProgress | None) -> bool:
    """Whether a table is right, by two ordered passes: over its rows, and over the entries of its indexes.
    The sum of the hashes of the entries that the rows should have is that of the entries found (they are
    64 bits, seeded in each process). False: it is not, or that cannot be told so."""
    if info.sealed or any(index.building for index in info.indexes.values()):
        return False
    try:
        expected = _sums(view, info, last, count, progress)
        return expected is not None and all(
            _sum(view, info, index, count, progress) == (count, wanted)
            for index, wanted in zip(info.indexes.values(), expected, strict=True)
        )
    except (Error, DecodeError):  # whichever row it is, looking at them one by one tells
        return False


def _sums(
    view: View, info: TableInfo, last: int, count: int, progress: OnProgress | None
) -> list[int] | None:
    """For each index the sum of the entries that the rows should have; None where a row is not right."""
    skip, rows, told, header = len(info.row_prefix), 0, 0, keys.HEADER_SIZE
    parse: Callable[[bytes], Any] = info.model.FromString
    key_of, seq_of, row_of = info.own.key_of, keys.seq_of, keys.row_of
    sums, entry_ofs = [0] * len(info.indexes), list(enumerate(info.own.entry_ofs))
    for chunk in view.chunks(info.row_prefix, keys.prefix(info.space, 1)):
        for full, value in chunk:
            key, flags = full[skip:], value[0]
            row = parse(row_of(value) if flags else value[header:])
            if key_of(row) != key or not 0 < seq_of(value) <= last:
                return None
            if flags & keys.HAS_EXPIRY and view.get(keys.end_note(keys.expires_of(value), full)) is None:
                return None
            for at, entry_of in entry_ofs:
                sums[at] += hash(entry_of(row) + key)
        rows += len(chunk)
        if progress is not None and rows - told >= EVERY:
            told = rows
            progress(Progress(f"check {info.name}", rows, count))
    return sums if rows == count else None


def _sum(
    view: View, info: TableInfo, index: IndexInfo, count: int, progress: OnProgress | None
) -> tuple[int, int]:
    """How many entries an index has, and their sum."""
    found = total = told = 0
    for chunk in view.chunks(index.prefix, keys.prefix(info.space, index.id + 1)):
        found += len(chunk)
        total += sum([hash(full) for full, _ in chunk])
        if progress is not None and found - told >= EVERY:
            told = found
            progress(Progress(f"check {info.name}.{index.name}", found, count))
    return found, total


def _one_by_one(  # noqa: PLR0917  the one call is above
    db: Database, view: View, info: TableInfo, last: int, count: int, progress: OnProgress | None
) -> Iterator[str]:
    rows = 0
    wanted = {index.id: 0 for index in info.indexes.values()}
    skip = len(info.row_prefix)
    try:
        for full, value in view.items(info.row_prefix, keys.prefix(info.space, 1)):
            rows += 1
            if not _forgotten_since(db, view, value):
                yield from _row(view, info, full[skip:], value, last)
            if progress is not None and not rows % EVERY:
                progress(Progress(f"check {info.name}", rows, count))
        for index in info.indexes.values():
            for full, _ in view.items(index.prefix, keys.prefix(info.space, index.id + 1)):
                wanted[index.id] += 1
                key = index.key_in(full[skip:])
                if view.get(info.row_prefix + key) is None:
                    name = info.show_key(key)
                    yield f"index {info.name}.{index.name} has an entry for {name}, which is no row"
            if wanted[index.id] != rows and not index.building:
                yield f"index {info.name}.{index.name} has {wanted[index.id]:,} entries for {rows:,} rows"
    except Error as error:
        yield f"table {info.name}: {error}"
    if rows != count:
        yield f"table {info.name} has {rows:,} rows, and is said to have {count:,}"


def _forgotten_since(db: Database, view: View, value: bytes) -> bool:
    """Whether a row cannot be opened because its person was forgotten after the moment of the view."""
    key_id = keys.key_id_of(value)
    note = keys.NOTE_SHREDDED + key_id
    return bool(key_id) and db.tables.get(note) is not None and view.get(note) is None


def _row(view: View, info: TableInfo, key: bytes, value: bytes, last: int) -> Iterator[str]:
    try:
        name = info.show_key(key)
        raw = info.row_in(key, value)
        row = info.parse(raw, key)
        if info.own.key_of(row) != key:
            yield f"row {name} has another key in it: {info.show_key(info.own.key_of(row))}"
        if not 0 < keys.seq_of(value) <= last:
            yield f"row {name} says that commit {keys.seq_of(value)} wrote it; the log ends at {last}"
        if (expires_ns := keys.expires_of(value)) and (
            view.get(keys.end_note(expires_ns, info.row_prefix + key)) is None
        ):
            yield f"row {name} has a life, but it is not noted when that ends"
        for index, values in zip(info.indexes.values(), info.own.values(row, raw), strict=True):
            if view.get(values + key) is None and not index.building:
                yield f"row {name} has no entry in index {index.name}"
    except Error as error:
        yield str(error)


def _ends(view: View, schema: Schema, count: int) -> Iterator[str]:
    found = 0
    try:
        for note, _ in view.items(keys.NOTE_END, codec.after(keys.NOTE_END)):
            found += 1
            expires_ns, space, key = keys.read_end(note)
            info = schema.spaces.get(space)
            value = view.get(info.row_prefix + key) if info is not None else None
            if value is None or keys.expires_of(value) != expires_ns:
                name = info.show_key(key) if info is not None else f"in space {space}"
                yield f"row {name} is noted to end its life at {expires_ns}, and does not"
    except Error as error:
        yield f"lives of rows: {error}"
    if found != count:
        yield f"{found:,} rows have a life, {count:,} are said to have one"


def _strays(view: View, schema: Schema) -> Iterator[str]:
    """Whatever lies where no table or index is: the first of it between two of those."""
    held = [
        keys.prefix(info.space, index)
        for info in schema.spaces.values()
        for index in (keys.ROWS, *(index.id for index in info.indexes.values()))
    ]
    start = keys.SPACE.pack(1)
    for here in [*sorted(held), keys.prefix((1 << 32) - 1, (1 << 16) - 1) + b"\xff"]:
        for full, _ in view.items(start, here):
            space, index = keys.PREFIX.unpack_from(full + bytes(keys.PREFIX.size))
            if space in schema.spaces:
                name = schema.spaces[space].name
                yield f"something lies in index {index} of table {name}, which has no such"
            else:
                yield f"something lies in space {space}, which no table has"
            break
        start = codec.after(here)
