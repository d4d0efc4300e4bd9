"""Rebuild: build the tables again from the log, and prove that they equal the live ones.

    log ─▶ checked record by record ─▶ projected beside the live tables, up to a snapshot's seq
        ─▶ content hash of both ─▶ the rest of the log ─▶ switch, durably ─▶ the old ones dropped

Readers and writers continue; writers wait only for the last records and the switch.

A killed rebuild resumes where it stopped if it is of the same log:

    unfinished tables ─▶ `applied`: seq, checksum ─▶ has the record at seq that checksum? ─▶ resume after it

Tables are not in the write-ahead log: a kill loses their last writes together with the corresponding
`applied`, because both are in one batch. So the remaining tables are the projection of the first
records, up to `applied`.

A rebuild compares hashes and names the tables that differ. `differences` compares the rows of both in
key order, and names each that differs; it finds a difference exactly if the hashes differ.

Invariants
  (1) killed work resumes; failed or interrupted work leaves nothing;
  (2) nothing is switched before it is complete. Another directory that a database is rebuilt into has
      the file REBUILDING until then, and no EVERLOG.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from everlog.proto import log_pb2
from everlog.store import keys
from everlog.store.core import Core
from everlog.store.crypto.vault import Vault
from everlog.store.errors import CorruptionError, DiskError, Error, OpenError, UnavailableError
from everlog.store.log import Log
from everlog.store.process import Held
from everlog.store.progress import OnProgress, Progress
from everlog.store.rocks import files
from everlog.store.rocks.engine import Engine
from everlog.store.rocks.errors import reason, translated
from everlog.store.rocks.ownership import HALF, LOCK, Ownership, clear_owned, resolve
from everlog.store.rocks.view import View
from everlog.store.schema import codec
from everlog.store.schema.schema import Schema, TableInfo
from everlog.store.tables.hashing import TableHash, hashes, rows_of, same_hash, same_row
from everlog.store.tables.projection import CODE, FamilyTarget, Pending, Target
from everlog.store.tables.projector import Projector
from everlog.store.tables.tables import read_applied, read_counts, schema_of
from everlog.store.upkeep import recovery

# Framed records after a seq, in order.
Source = Callable[[int], Iterable[bytes]]


def empty_projector(target: Target, vault: Vault | None = None) -> Projector:
    """Return a projector for records from the first on. Without keys, sealed rows get no index entries."""
    return Projector(Pending(target, {}), Schema(log_pb2.Schema(), vault), 0, 0)


def resuming_projector(log: Log, target: Target, vault: Vault | None = None) -> Projector | None:
    """Return a projector that continues after the records in the target; None if it has none, or is of
    another log. Read-only."""
    applied, checksum = read_applied(target.view)
    if not log.oldest <= applied <= log.written or log.checksum_at(applied) != checksum:
        return None
    pending, schema = Pending(target, read_counts(target.view)), Schema(schema_of(target.view, log), vault)
    return Projector(pending, schema, applied, checksum)


def resuming_projector_of(
    engine: Engine, log: Log, source: Source, last: int, vault: Vault | None = None
) -> Projector | None:
    """As `resuming_projector`, for a directory: the last record of its log must be that of the source. None:
    it cannot be used."""
    try:
        target = FamilyTarget(engine)
        if not 0 < log.written <= last or log.oldest > 1:
            return None
        if next(iter(source(log.written - 1)), None) != log.get(log.written):
            return None
        has_some = read_applied(target.view)[0]
        return resuming_projector(log, target, vault) if has_some else empty_projector(target, vault)
    except Error:
        return None


def compare(
    live: View, fresh: View, projector: Projector, seq: int, progress: OnProgress | None
) -> dict[str, TableHash]:
    """Return the hashes that the live and the rebuilt tables share. Raises CorruptionError that names the
    tables that differ."""
    report = reporting(progress, "compare tables", projector.pending.counts)
    found = {
        name: same_hash(fresh, live, info, report) for name, info in sorted(projector.schema.tables.items())
    }
    different = [name for name, result in found.items() if result is None]
    if different:
        raise CorruptionError(
            f"at record {seq} these tables differ from the log: {', '.join(different)}; nothing was switched."
            " `everlog check --deep` names the rows, `everlog repair` replaces the tables by those"
            " of the log",
            seq=seq,
            tables=different,
        )
    return {name: result for name, result in found.items() if result is not None}


def reporting(progress: OnProgress | None, step: str, counts: dict[int, int]) -> Callable[[int], None] | None:
    """Return a function that reports the progress over all rows; None without `progress`."""
    if progress is None:
        return None
    total = sum(rows for space, rows in counts.items() if space != keys.ENDS)
    return lambda done: progress(Progress(step, done, total))


def differences(live: View, fresh: View, info: TableInfo) -> Iterator[str]:
    """Yield a sentence for each row of a table that differs from `fresh`, the table built from the log.
    Read-only.

    The sentences contain no data of rows. Raises CorruptionError.
    """
    mine, theirs = rows_of(live, info), rows_of(fresh, info)
    here, there = next(mine, None), next(theirs, None)
    while here or there:
        key = min(one[0] for one in (here, there) if one)
        name = _name(info, key)
        if here is None or here[0] != key:
            assert there is not None
            yield f"row {name} is missing: commit {keys.version_of(there[1])} of the log wrote it"
        elif there is None or there[0] != key:
            yield f"row {name} is in the table, but not in the log"
        elif here[1] != there[1] and not same_row(info, key, here[1], there[1]):
            yield f"row {name} differs from what commit {keys.version_of(there[1])} of the log wrote"
        if here and here[0] == key:
            here = next(mine, None)
        if there and there[0] == key:
            there = next(theirs, None)


def _name(info: TableInfo, key: bytes) -> str:
    try:
        return info.show_key(key[len(info.row_prefix) :])
    except CorruptionError:
        return f"{info.name}/{key.hex()}"


COPY_RECORDS, COPY_BYTES = 512, 4 << 20
REPORT_BYTES = 128 << 10  # of records between two calls of `progress`, which may end the rebuild


def beside(core: Core, progress: OnProgress | None) -> dict[str, TableHash]:
    """See `Admin.rebuild`."""
    if not core.engine.rebuilding.acquire(blocking=False):
        raise Error(
            f"the tables of {core.url} are being rebuilt already, or a person is being forgotten; try again"
            " when that has finished"
        )
    try:
        return _beside(core, progress)
    finally:
        core.engine.rebuilding.release()


def _beside(core: Core, progress: OnProgress | None) -> dict[str, TableHash]:
    engine, tables, log = core.engine, core.tables, core.log
    name = engine.next_name
    family, handle = engine.next_family(CODE)
    target = FamilyTarget(engine, family, handle)
    if (projector := resuming_projector(log, target, core.schema.vault)) is None and read_applied(
        target.view
    )[0]:
        target.forget()
        del handle
        engine.drop_family(name, family)
        family, handle = engine.next_family(CODE)
        target = FamilyTarget(engine, family, handle)
    try:
        view, seq = tables.snapshot()
        try:
            projector = projector or projector_from_start(log, target, core.schema.vault)
            replay(log, projector, seq, progress)
            engine.rest(family)
            fresh = compare(view, target.view, projector, seq, progress)
        finally:
            view.close()
        replay(log, projector, log.written, progress)
        with core.committer.exclusive():
            replay(log, projector, log.written, progress)
            old = tables.switch(target, name)
            recovery.build_missing_entries(tables)
    except BaseException:
        target.forget()
        del handle
        core.committer.failed = engine.give_up_data(name, family) or core.committer.failed
        raise
    with contextlib.suppress(DiskError):  # the rebuild is done; the next opening drops them
        engine.drop_family(*old)
    return fresh


def into(core: Core, path: Path, last: int | None, progress: OnProgress | None) -> dict[str, TableHash]:
    """See `Admin.rebuild_into`."""
    check_from_start(core.log)
    last = core.log.head if last is None else last

    def source(after: int) -> Iterator[bytes]:
        return (framed for _, framed in core.log.scan(after, last))

    marker = (core.directory / files.MARKER).read_bytes()
    return make(path, marker, source, last, progress, vault=core.schema.vault)


def make(
    path: Path,
    marker: bytes,
    records: Iterable[bytes] | Source,
    last: int,
    progress: OnProgress | None,
    *,
    step: str = "rebuild",
    vault: Vault | None = None,
) -> dict[str, TableHash]:
    """Make a database in a directory from framed records, from the first to `last`. Return the hashes of
    its tables. Writes.

    `marker`: the content of its file EVERLOG. A failure leaves nothing; a kill leaves no database. If
    `records` is a function, a killed run resumes where it stopped, as does one whose server was
    unavailable. Raises OpenError, UnavailableError, DiskError, and CorruptionError for an invalid record.
    """
    path = resolve(path)
    try:
        with _complete_or_removed(path, marker, resumed=callable(records)) as owner:
            return _make(owner, records, last, progress, step, vault)
    except OSError as error:
        raise DiskError(
            f"{path} could not be created: {reason(error, path)}. Nothing of it is left; fix the cause and"
            " try again",
            outcome="nothing written",
        ) from error


def is_half(path: Path) -> bool:
    """Return whether a rebuild into this directory was killed, or is running. The next one resumes it."""
    return (path / HALF).exists()


@contextlib.contextmanager
def _complete_or_removed(path: Path, marker: bytes, *, resumed: bool) -> Iterator[Ownership]:
    """Lock a directory that becomes a database at the end of the block.

    After an error it is removed; after a kill it has the file HALF instead of EVERLOG. Old versions lock
    that file.
    """
    if path.exists() and not is_half(path) and any(file.name != LOCK for file in path.iterdir()):
        raise OpenError(f"{path} is not empty; expected a new directory for the database")
    made = not path.exists()
    files.make_directory(path)
    try:
        owner = Ownership(path, writing=True)
    except OpenError as error:
        if not error.facts.get("busy"):
            raise
        raise OpenError(f"another process rebuilds into {path} now; name another directory") from None
    half = owner.at / HALF
    try:
        if (owner.at / files.MARKER).exists():
            raise OpenError(f"another process has rebuilt into {path} just now")
        with (
            Held(os.open(half, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)) as held,
            open(held.fileno(), "ab", closefd=False) as file,
        ):
            try:
                fcntl.flock(held.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OpenError(f"another process rebuilds into {path} now; name another directory") from None
            try:
                if not resumed or half.read_bytes() != marker:
                    clear_owned(owner)
                    file.truncate(0)
                    file.write(marker)
                    file.flush()
                    os.fsync(file.fileno())
                yield owner
                if not owner.is_here():
                    raise OpenError(f"{path} was moved or removed while a database was created in it")
                half.replace(owner.at / files.MARKER)
                files.sync_directory(owner.at)
            except UnavailableError:
                raise  # the next run resumes it
            except BaseException as error:
                try:
                    clear_owned(owner)
                    half.unlink(missing_ok=True)
                    owner.drop_lock_file()
                except OSError as failed:  # such as no descriptors
                    raise DiskError(
                        f"{path} could not be created: {error}. Its files could not be removed"
                        f" ({failed.strerror}). They are no database; the next run uses or removes them",
                        outcome="nothing written",
                    ) from error
                if made and owner.is_here():
                    with contextlib.suppress(OSError):  # other files were put there
                        path.rmdir()
                raise
    finally:
        owner.release()


def _mark_forgotten_later(target: FamilyTarget, vault: Vault) -> None:
    """Mark the tables with rows of people who were forgotten after the last record: they have no index
    entries, and by these records their keys are only missing. With a key store that has them, the indexes
    are built."""
    start, spaces = keys.NOTE_OF_KEY, set[bytes]()
    for note, _ in target.view.items(start, codec.after(start)):
        key_id, where = note[len(start) :][: keys.KEY_ID_SIZE], note[len(start) + keys.KEY_ID_SIZE :]
        if not vault.has(key_id) and target.stored(keys.NOTE_SHREDDED + key_id) is None:
            spaces.add(where[: keys.SPACE.size])
    writes = target.batch()
    for space in spaces:
        if target.stored(keys.NOTE_BARE + space) is None:
            writes[keys.NOTE_BARE + space] = keys.BARE_IN_PART
    target.write(writes)


def _make(  # noqa: PLR0917  called once, above
    owner: Ownership,
    records: Iterable[bytes] | Source,
    last: int,
    progress: OnProgress | None,
    step: str,
    vault: Vault | None,
) -> dict[str, TableHash]:
    engine = Engine(owner.path, owner=owner)
    try:
        log = Log(engine)
        projector = resuming_projector_of(engine, log, records, last, vault) if callable(records) else None
        if projector is None and log.written:
            engine.close()
            clear_owned(owner)
            engine = Engine(owner.path, owner=owner)
            log = Log(engine)
        target = FamilyTarget(engine)
        projector = projector or empty_projector(target, vault)
        replay(log, projector, log.written, None)
        chunk: list[bytes] = []
        size = 0
        for framed in records(log.written) if callable(records) else records:
            projector.add(framed)
            chunk.append(framed)
            size += len(framed)
            if len(chunk) == COPY_RECORDS or size >= COPY_BYTES or projector.applied == last:
                log.append(chunk)
                chunk, size = [], 0
                if progress is not None:
                    progress(Progress(step, projector.applied, last, "records"))
        if projector.applied != last:
            raise CorruptionError(f"expected records up to {last}, found none after {projector.applied}")
        projector.flush()
        if vault is not None and vault.is_open and not vault.locked:
            _mark_forgotten_later(target, vault)
        log.sync()
        engine.flush()
        engine.rest(engine.data)
        log.write_head_file(sync=True)
        return hashes(
            target.view,
            projector.schema,
            reporting(progress, "hash rebuilt tables", projector.pending.counts),
        )
    finally:
        engine.close()


def projector_from_start(log: Log, target: Target, vault: Vault | None = None) -> Projector:
    """Return a projector at the beginning of the log. Raises CorruptionError if the log was trimmed."""
    check_from_start(log)
    return empty_projector(target, vault)


def check_from_start(log: Log) -> None:
    """Raise CorruptionError if the log does not start at its first record."""
    if log.oldest > 1:
        raise CorruptionError(
            f"the log starts at {log.oldest}: a rebuild needs the archive of the earlier records"
        )


def replay(log: Log, projector: Projector, until: int, progress: OnProgress | None) -> None:
    """Project the log up to `until`. Raises CorruptionError that names the first invalid record."""
    size = 0
    with translated("projecting the log onto the tables"):
        for seq, framed in log.scan(projector.applied, until):
            projector.add(framed)
            size += len(framed)
            if progress is not None and size >= REPORT_BYTES:
                size = 0
                progress(Progress("rebuild", seq, until, "records"))
    projector.flush()
    if progress is not None:
        progress(Progress("rebuild", projector.applied, until, "records"))
