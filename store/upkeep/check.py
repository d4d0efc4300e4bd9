"""Check: compare tables, indexes and files with the log, and report each problem.

files    in RocksDB's MANIFEST exist, and every block matches its checksum (rocks/manifest.py)
log      every record is valid, seqs are dense, times do not go back
rows     parse, lie under the key they contain, and were written by an existing record
entries  every row has its entry in each index, and every entry its row: by sums over both, and one by one
         only if the sums differ. In an index under construction, rows that the backfill has passed have one
keys     of forgotten persons are not in the key store
deep     every row is what the log says: all tables are built from it again, elsewhere
notes    counts are right, nothing lies in a space or an index without a schema; every expiring row has the
         note of its expiry, and every such note its row
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import DecodeError

from everlog.store import keys, record
from everlog.store.core import Core
from everlog.store.crypto.vault import Vault
from everlog.store.errors import DiskError, Error, SealedError, quantity
from everlog.store.online.backfill import progress_of
from everlog.store.progress import OnProgress, Progress
from everlog.store.rocks import files, manifest
from everlog.store.rocks.engine import Engine
from everlog.store.rocks.files import Temporary
from everlog.store.rocks.view import Item, View
from everlog.store.schema import codec
from everlog.store.schema.schema import IndexInfo, KeyOf, Schema, TableInfo
from everlog.store.tables.projection import FamilyTarget
from everlog.store.tables.projector import built_note
from everlog.store.tables.tables import read_counts, schema_of
from everlog.store.tx.source import ROWS_TOGETHER
from everlog.store.upkeep.rebuild import differences, projector_from_start, replay
from everlog.store.upkeep.recovery import shredded_on_disk

EVERY = 4096
FORGOTTEN_MAX = 10_000  # rows of a table whose persons may be forgotten during the check
FORGETTING_S = 2.0  # how long a reader waits for a process that may be overwriting a key


def problems(
    core: Core,
    progress: OnProgress | None = None,
    *,
    keys_needed: bool = True,
    files_too: bool = True,
    deep: bool = False,
) -> Iterator[str]:
    """Yield a sentence for each problem; see `Admin.check`. Read-only.

    Without `keys_needed`, sealed tables that cannot be checked are no problem: a backup has no keys.
    Without `files_too`, RocksDB's files are not checked. `deep` also compares every row with the log.
    """
    if core.engine.stopped is not None:  # its files were moved or replaced
        yield str(core.engine.stopped)
        return
    if files_too:
        yield from manifest.problems(core.path)
    yield from _keys(core)
    view, seq = core.tables.snapshot()
    try:
        schema, counts = Schema(schema_of(view, core.log), core.schema.vault), read_counts(view)
        yield from _log(core, seq, progress)
        for info in schema.spaces.values():
            if info.sealing is None or not info.sealing.vault.locked:
                yield from _Passes(core, view, info, seq, counts.get(info.space, 0), progress).problems()
            elif keys_needed:
                why = info.sealing.vault.locked
                yield f"table {info.name} was not checked: its rows are sealed, and {why}"
        yield from _strays(view, schema)
        yield from _ends(view, schema, counts.get(keys.ENDS, 0))
        if deep:
            yield from _deep(core, view, seq, progress)
    finally:
        view.close()


def _deep(core: Core, view: View, seq: int, progress: OnProgress | None) -> Iterator[str]:
    """Yield the rows that differ from the log. Builds the tables from the log in a temporary directory, of
    the size of the database's tables."""
    scratch = Temporary("everlog-check-")
    try:
        engine = Engine(scratch.path)
        try:
            target = FamilyTarget(engine)
            projector = projector_from_start(core.log, target, core.schema.vault)
            replay(core.log, projector, seq, progress)
            for info in projector.schema.tables.values():
                yield from differences(view, target.view, info)
        finally:
            engine.close()
    except Error as error:
        yield f"rows could not be compared with the log: {error}"
    finally:
        scratch.remove()


def _keys(core: Core) -> Iterator[str]:
    """Yield a problem if the key store on disk has keys of forgotten persons, or lacks keys."""
    vault = core.schema.vault
    if vault is None:
        return
    try:
        if not core.read_only and (lost := vault.lost()):
            yield (
                f"{vault.path} lacks {quantity(len(lost), 'key')} that this process has: an older copy"
                " replaced it while the database is open. Restore the newest copy before this process"
                " ends; if there is none, export the sealed tables"
            )
        found = _forgotten_in_newer_file(core, vault) if core.read_only else vault.forgotten_in_file()
        if found and not core.read_only:
            # Rule out one that is being forgotten just now; a full disk refuses to overwrite its key.
            with contextlib.suppress(DiskError), core.committer.exclusive():
                found = vault.forgotten_in_file()
    except Error as error:
        yield str(error)
        return
    if found:
        yield (
            f"{vault.path} has the keys of {quantity(len(found), 'forgotten person')}, the first"
            f" {found[0].hex()}: an older copy of it was restored, a process was killed before it overwrote"
            " them, or the disk refuses that. Nothing is read with these keys; `everlog expire` overwrites"
            " them while no process has the database open. Destroy older copies of the file"
        )


def _forgotten_in_newer_file(core: Core, vault: Vault) -> list[bytes]:
    """Return such keys as a reader.

    A writer syncs its tables before it overwrites a key: a key that is forgotten only in the log has not
    come back, and the others may be overwritten just now.
    """
    found = vault.forgotten_in_file(shredded_on_disk(core.engine))
    until = time.monotonic() + FORGETTING_S
    while found and (core.directory / files.OWNER).exists() and time.monotonic() < until:
        time.sleep(FORGETTING_S / 100)
        found = vault.forgotten_in_file(found)
    return found


def _log(core: Core, last: int, progress: OnProgress | None) -> Iterator[str]:
    time_ns = 0
    try:
        for seq, framed in core.log.scan(0, last):
            commit = record.decode(framed, seq)
            if commit.time_ns < time_ns:
                yield f"record {seq} of the log is older than the previous record"
            time_ns = commit.time_ns
            if seq == core.log.oldest and not (commit.HasField("created") or commit.HasField("base")):
                yield f"record {seq}, the first of the log, does not identify its database"
            if progress is not None and not seq % EVERY:
                progress(Progress("check log", seq, last, "records"))
    except Error as error:
        yield str(error)


class _Passes:
    """The passes over one table in a view, as of the record `last`."""

    def __init__(  # noqa: PLR0917  called once, above
        self,
        core: Core,
        view: View,
        info: TableInfo,
        last: int,
        count: int,
        progress: OnProgress | None,
    ) -> None:
        self._core, self._view, self._info, self._last, self._count = core, view, info, last, count
        self._progress = progress
        # For each index the key of the last row that must have an entry; None: all rows must.
        self._built = [_built(view, index) for index in info.indexes.values()]
        self._forgotten: set[bytes] = (
            set()
        )  # keys of rows whose person was forgotten since the view was taken

    def problems(self) -> Iterator[str]:
        """Yield a sentence for each problem of the table."""
        if not self._add_up():
            yield from self._one_by_one()

    def _add_up(self) -> bool:
        """Return whether the table is right, by two ordered passes: over its rows, and over the entries of
        its indexes.

        The sum of the hashes of the expected entries must equal that of the entries found (64 bits, seeded
        per process). False: it is wrong, or this method cannot decide.
        """
        try:
            expected = self._expected()
            return expected is not None and all(
                self._found(at, index) == wanted
                for at, (index, wanted) in enumerate(zip(self._info.indexes.values(), expected, strict=True))
            )
        except (Error, DecodeError):  # the pass over single rows names it
            return False

    def _expected(self) -> list[tuple[int, int]] | None:
        """Return the expected number of entries, and their sum, for each index; None if a row is wrong."""
        info, rows, report = self._info, 0, self._reporting(self._info.name)
        counts, sums = [0] * len(info.indexes), [0] * len(info.indexes)
        indexes = list(enumerate(zip(info.own.entry_ofs, self._built, strict=True)))
        for chunk in self._view.chunks(info.row_prefix, keys.prefix(info.space, 1)):
            found = self._parsed(chunk)
            if found is None:
                return None
            for at, (entry_of, built) in indexes:
                due = found if built is None else [(key, row) for key, row in found if key <= built]
                counts[at] += len(due)
                sums[at] += sum([hash(entry_of(row) + key) for key, row in due if row is not None])
            rows += len(chunk)
            report(rows)
        return list(zip(counts, sums, strict=True)) if rows == self._count else None

    def _parsed(self, chunk: list[Item]) -> list[tuple[bytes, Any]] | None:
        """Return the keys of stored rows with the rows (None: the person was forgotten since); None if one
        is wrong."""
        view, info, last = self._view, self._info, self._last
        skip, header, sealed, expiring = (
            len(info.row_prefix),
            keys.HEADER_SIZE,
            keys.HAS_KEY_ID,
            keys.HAS_EXPIRY,
        )
        parse: Callable[[bytes], Any] = info.model.FromString
        key_of, seq_of, row_of = info.own.key_of, keys.seq_of, keys.row_of
        found: list[tuple[bytes, Any]] = []
        for full, value in chunk:
            key, flags = full[skip:], value[0]
            if flags & sealed:
                raw = self._opened(key, value)
                if raw is None:
                    found.append((key, None))
                    continue
            else:
                raw = row_of(value) if flags else value[header:]
            row = parse(raw)
            if key_of(row) != key or not 0 < seq_of(value) <= last:
                return None
            if flags & expiring and view.get(keys.end_note(keys.expires_of(value), full)) is None:
                return None
            found.append((key, row))
        return found

    def _opened(self, key: bytes, value: bytes) -> bytes | None:
        """Return the plaintext of a sealed row; None if its person was forgotten since. Raises SealedError
        for others."""
        try:
            return self._info.row_in(key, value)
        except SealedError:
            if not _forgotten_since(self._core, self._view, value) or len(self._forgotten) >= FORGOTTEN_MAX:
                raise
            self._forgotten.add(key)
            return None

    def _found(self, at: int, index: IndexInfo) -> tuple[int, int] | None:
        """Return the number of entries in an index, and their sum; None if one is wrong.

        Entries of rows that can no longer be unsealed are only counted. Entries after the last built row
        are compared with their rows.
        """
        info, built, forgotten, key_in = self._info, self._built[at], self._forgotten, index.key_in
        found, total, skip = 0, 0, len(index.prefix)
        report = self._reporting(f"{info.name}.{index.name}")
        for chunk in self._view.chunks(index.prefix, keys.prefix(info.space, index.id + 1)):
            found += len(chunk)
            if built is None and not forgotten:
                total += sum([hash(full) for full, _ in chunk])
            else:
                keyed = [(full, key_in(full[skip:])) for full, _ in chunk]
                if built is not None:
                    later = [(full, key) for full, key in keyed if key > built]
                    if not self._are_right(info.own.entry_ofs[at], later):
                        return None
                    found -= len(later)
                    keyed = [(full, key) for full, key in keyed if key <= built]
                total += sum([hash(full) for full, key in keyed if key not in forgotten])
            report(found)
        return found, total

    def _are_right(self, entry_of: KeyOf, entries: list[tuple[bytes, bytes]]) -> bool:
        """Return whether each entry, given with its key, is that of its row."""
        info, forgotten = self._info, self._forgotten
        for at in range(0, len(entries), ROWS_TOGETHER):
            some = [(full, key) for full, key in entries[at : at + ROWS_TOGETHER] if key not in forgotten]
            values = self._view.get_some([info.row_prefix + key for _, key in some])
            for (full, key), value in zip(some, values, strict=True):
                if value is None or entry_of(info.salvage(info.row_in(key, value))) + key != full:
                    return False
        return True

    def _one_by_one(self) -> Iterator[str]:
        view, info, rows = self._view, self._info, 0
        skip, report = len(info.row_prefix), self._reporting(info.name)
        try:
            for full, value in view.items(info.row_prefix, keys.prefix(info.space, 1)):
                rows += 1
                if not _forgotten_since(self._core, view, value):
                    yield from self._row(full[skip:], value)
                report(rows)
            for at, index in enumerate(info.indexes.values()):
                found = 0
                for full, _ in view.items(index.prefix, keys.prefix(info.space, index.id + 1)):
                    found += 1
                    if problem := self._entry(at, index, full):
                        yield problem
                if found != rows and self._built[at] is None:
                    yield (
                        f"index {info.name}.{index.name} has {quantity(found, 'entry', 'entries')} for"
                        f" {quantity(rows, 'row')}"
                    )
        except Error as error:
            yield f"table {info.name}: {error}"
        if rows != self._count:
            yield f"table {info.name} has {quantity(rows, 'row')}, but its stored count is {self._count:,}"

    def _row(self, key: bytes, value: bytes) -> Iterator[str]:
        view, info = self._view, self._info
        try:
            name = info.show_key(key)
            raw = info.row_in(key, value)
            row = info.parse(raw, key)
            if info.own.key_of(row) != key:
                yield f"row {name} contains another key: {info.show_key(info.own.key_of(row))}"
            if not 0 < keys.seq_of(value) <= self._last:
                yield (
                    f"row {name} was written by commit {keys.seq_of(value)}, but the log ends at {self._last}"
                )
            if (expires_ns := keys.expires_of(value)) and (
                view.get(keys.end_note(expires_ns, info.row_prefix + key)) is None
            ):
                yield f"row {name} expires, but has no note of its expiry"
            for index, values, built in zip(
                info.indexes.values(), info.own.values(row, raw), self._built, strict=True
            ):
                if view.get(values + key) is None and (built is None or key <= built):
                    yield f"row {name} has no entry in index {index.name}"
        except Error as error:
            yield str(error)

    def _entry(self, at: int, index: IndexInfo, full: bytes) -> str:
        """Return the problem of an entry; empty: it has none, or its row has."""
        info = self._info
        key = index.key_in(full[len(index.prefix) :])
        value = self._view.get(info.row_prefix + key)
        if value is None:
            return (
                f"index {info.name}.{index.name} has an entry for {info.show_key(key)}, which does not exist"
            )
        try:
            if info.own.entry_ofs[at](info.salvage(info.row_in(key, value))) + key != full:
                return (
                    f"index {info.name}.{index.name} has an entry for {info.show_key(key)} with values that"
                    " differ from the row"
                )
        except Error:
            pass  # the row cannot be read, and was reported
        return ""

    def _reporting(self, what: str) -> Callable[[int], None]:
        """Return a function that reports the progress from time to time."""
        progress, reported = self._progress, 0
        if progress is None:
            return lambda _: None

        def report(done: int) -> None:
            nonlocal reported
            if done - reported >= EVERY:
                reported = done
                progress(Progress(f"check {what}", done, self._count))

        return report


def _built(view: View, index: IndexInfo) -> bytes | None:
    """Return the key of the last row that must have an entry in an index; None: every row must."""
    note = view.get(built_note(index)) if index.building else keys.ALL_BUILT
    return None if note == keys.ALL_BUILT else progress_of(note)[1]


def _forgotten_since(core: Core, view: View, value: bytes) -> bool:
    """Return whether a row cannot be unsealed because its person was forgotten after the view was taken."""
    key_id = keys.key_id_of(value)
    note = keys.NOTE_SHREDDED + key_id
    return bool(key_id) and core.tables.get(note) is not None and view.get(note) is None


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
                yield f"row {name} has a note to expire at {expires_ns}, but does not expire then"
    except Error as error:
        yield f"expiry of rows: {error}"
    if found != count:
        yield f"found {quantity(found, 'row')} with an expiry, but the stored count is {count:,}"


def _strays(view: View, schema: Schema) -> Iterator[str]:
    """Yield keys outside of all tables and indexes: the first in each gap."""
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
                yield f"found keys in index {index} of table {name}, which does not exist"
            else:
                yield f"found keys in space {space}, which belongs to no table"
            break
        start = codec.after(here)
