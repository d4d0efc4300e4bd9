"""Archive: move the old part of a database's log to another place, and free its disk space.

    removable records ─▶ segments at the target ─▶ read again ─▶ listed in ARCHIVE
                                                                       │
          compact: disk space is free ◀── trimmed, a Base in their place ◀── projections caught up
                                          one batch, durable

Archived records are read from the target wherever they are needed (`archived.py`): by a rebuild, a slow
follower, a history. Tables, migrations, and the ids of loads and of repeatable commits stay in the database,
so it serves reads and writes while the target is unreachable.

Records that stay: the newest; those within `keep_records` and `keep_ns`; those from a hold on (`holds.py`);
those that a registered consumer has not read, up to its cap; and commits that may be repeated, for as long
as their ids are remembered.

Invariants
  (1) a record is removed only after it was read back from the target and the target is listed;
  (2) killed at any point, each record is in the log, in a listed target, or in both;
  (3) at most one archiving of a database runs at a time;
  (4) the removable range is computed again at the moment of removal, while holds, registrations and commits
      are blocked.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Iterator
from os import PathLike

import msgspec

from everlog.audit import archived, holds
from everlog.audit import manifest as manifests
from everlog.audit.backup import Backup, back_up, backup
from everlog.audit.place import Place, check_storable, place
from everlog.audit.segment import position_of
from everlog.audit.source import LogSource
from everlog.audit.tiles import WIDTH, node_in
from everlog.audit.tree import Tree
from everlog.proto import log_pb2
from everlog.store import keys, record
from everlog.store.database import Database
from everlog.store.errors import DiskError, OpenError, ReadOnlyError, RowError
from everlog.store.process import Lock
from everlog.store.progress import OnProgress, Progress
from everlog.store.rocks import files
from everlog.store.schema import codec

_LOCKS: weakref.WeakKeyDictionary[Database, threading.Lock] = weakref.WeakKeyDictionary()
_LOCKS_LOCK = Lock()


class Archival(msgspec.Struct, frozen=True):
    """Result of an archiving: the target has the records up to `last`, the log begins after `base`, and
    `removed` records were trimmed. `held` is the reason why no more records were removable. Bytes are those
    of all files of the database, before and after."""

    last: int
    base: int
    removed: int
    held: str
    bytes_before: int
    bytes_after: int


def archive(
    db: Database,
    target: str | PathLike[str],
    *,
    keep_records: int = 0,
    keep_ns: int = 0,
    progress: OnProgress | None = None,
) -> Archival:
    """Move the old part of a database's log to a directory, or to any URL that fsspec supports.

    Keeps the last `keep_records` records and those of the last `keep_ns` nanoseconds. Reads and writes
    continue meanwhile. A target that lacks records archived elsewhere gets them as well, read from there.

    `progress` is called with each step. Returns an `Archival`. Raises ReadOnlyError; OpenError if the target
    belongs to another database or has diverged, or if another archiving runs; DiskError. After an error
    nothing was removed. Writes to the target and to the database.
    """
    if db.read_only:
        raise ReadOnlyError(f"{db.url} was opened for reading; open it without read_only to archive")
    if keep_records < 0 or keep_ns < 0:
        raise RowError("expected to keep 0 records or more, and 0 seconds or more")
    check_storable(target)
    with _exclusive(db):
        return _archive(db, target, keep_records, keep_ns, progress)


def _archive(
    db: Database,
    target: str | PathLike[str],
    keep_records: int,
    keep_ns: int,
    progress: OnProgress | None,
) -> Archival:
    before = db.disk_bytes()
    older = db.log.trimmed.older or archived.attach(db)
    last, held = removable(db, keep_records, keep_ns)
    base, removed = db.log.trimmed.base, 0
    more = last > max(base, 1)  # a single record is not worth a Base
    if more or archived.lacks(db.directory, target, base):
        _copy(db, target, max(last, base), progress)
        assert isinstance(older, archived.Archived)
        older.reload()
    if more:
        _bring_up_to_date(db, progress)
        if progress is not None:
            progress(Progress("remove", 0, last - base, "records"))
        _check_there(place(target), last)
        with files.locked(db.path), db.committer.exclusive():  # no hold, registration or commit meanwhile
            last, held = min((last, held), removable(db, keep_records, keep_ns))  # may have changed since
            if last > base:
                _trim(db, last)
                removed = last - base
    if progress is not None:
        progress(Progress("compact", 0, None, "records"))
    db.engine.compact_log(keys.SEQ.pack(max(last, base)))
    db.log.merger.start()  # space that a snapshot keeps is freed when the snapshot is released
    return Archival(max(last, base), db.log.trimmed.base, removed, held, before, db.disk_bytes())


@contextlib.contextmanager
def _exclusive(db: Database) -> Iterator[None]:
    """Hold the lock that allows one archiving of this database. Raises OpenError if one runs."""
    with _LOCKS_LOCK:
        lock = _LOCKS.setdefault(db, threading.Lock())
    if not lock.acquire(blocking=False):
        raise OpenError(f"{db.url} is being archived now; wait for it", busy=True)
    try:
        yield
    finally:
        lock.release()


def removable(db: Database, keep_records: int, keep_ns: int, *, repeatable: bool = True) -> tuple[int, str]:
    """Return the last removable record, 0 if there is none, and the reason why the next one stays. Read-only.

    With `repeatable=False`, commits that may be repeated are ignored, which reads less.
    """
    newest = min(db.head, db.tables.applied)  # durable records may not be in the tables yet
    found = [(newest - 1, "the newest record stays"), (newest - keep_records, f"{keep_records:,} are kept")]
    if keep_ns:
        found.append((_before(db, time.time_ns() - keep_ns), "those of some time are kept"))
    found += [(seq - 1, f"hold {name!r}") for name, seq in holds.read(db.directory).items()]
    found += [(one.position.seq, f"consumer {one.name!r}") for one in db.consumers if not one.over]
    if repeatable and (first := _repeatable(db)):
        hours = f"{db.committer.idempotency_s / 3600:g}"
        found.append((first - 1, f"commits of the last {hours} hours may be repeated under their ids"))
    last, held = min(found)
    return max(last, 0), held


def _before(db: Database, time_ns: int) -> int:
    """Return the seq of the last record before a time."""
    low, high = db.log.trimmed.base, db.head + 1
    while high - low > 1:
        middle = (low + high) // 2
        if position_of(db.log.get(middle)).time_ns < time_ns:
            low = middle
        else:
            high = middle
    return low


def _repeatable(db: Database) -> int:
    """Return the first record whose commit may still be repeated under its id; 0 if there is none.

    Ids begin with a time (UUIDv7), so one range of ids is read. That time comes from a client's clock. A
    clock that is ahead keeps no record longer, because the record's own time counts as well.
    """
    since_ns = max(0, db.clock.read() - int(db.committer.idempotency_s * 1e9))
    start = keys.NOTE_COMMIT + (since_ns // 1_000_000).to_bytes(6, "big")
    before = _before(db, since_ns)
    view, _ = db.tables.snapshot()
    try:
        found = (keys.SEQ.unpack(value)[0] for _, value in view.items(start, codec.after(keys.NOTE_COMMIT)))
        return min((seq for seq in found if seq > before), default=0)
    finally:
        view.close()


def _copy(db: Database, target: str | PathLike[str], last: int, progress: OnProgress | None) -> None:
    """Copy all records up to `last` to the target, and list it. Raises if either fails."""
    if archived.reach(target) < db.log.trimmed.base:
        db.log.trimmed.some(0, 1, 1)  # fail before a directory is made if the other target is unreachable
    where, source = place(target, create=True), LogSource(db)
    try:
        back_up(source, where, until=last, hashes=False, progress=progress)
    finally:
        source.close()
    archived.note(db.directory, where.full_url, last)


def _check_there(where: Place, last: int) -> None:
    """Raise DiskError if the target lists fewer records than were written, or lacks a file.

    An object store does not exclude other writers, and another writer would remove these segments as the
    leftovers of a killed backup.
    """
    manifest, there = manifests.needed(where), set(where.names())
    missing = [one.name for one in manifest.segments if one.name not in there]
    if manifest.head.seq < last or missing:
        what = f"its segment {missing[0]} is gone" if missing else f"it ends at record {manifest.head.seq}"
        raise DiskError(
            f"{where.url} had records up to {last}, but now {what}: another process writes there. Nothing was"
            " removed from the database; archive it to a place of its own",
            outcome="nothing written",
        )


def _bring_up_to_date(db: Database, progress: OnProgress | None) -> None:
    """Make every projection catch up with the log, durably, before records are removed."""
    db.past.catch_up(progress=progress)
    Tree(db).catch_up(progress, stored=True)
    db.tables.flush()
    db.engine.flush()
    db.log.write_head_file(sync=True)


def _trim(db: Database, last: int) -> None:
    """Remove the records up to `last`, while commits are blocked. Writes."""
    framed = db.log.get(last)
    end, tree = position_of(framed), Tree(db)
    tree.catch_up(stored=True)  # it may have been discarded meanwhile
    base = log_pb2.Base(
        database=db.uuid,
        time_ns=end.time_ns,
        schema=db.schema_at(last),
        checksum=end.checksum,
        tree_size=last,
        tree_frontier=frontier(tree, last),
    )
    commit = log_pb2.Commit(seq=last, time_ns=end.time_ns, schema=base.schema.version, base=base)
    known = db.log.trimmed.base
    kept = [seq for seq in _looked_up(db) if known < seq <= last]
    with db.committer.exclusive():
        db.log.trim(record.frame(commit), [(seq, db.log.get(seq)) for seq in kept])


def _looked_up(db: Database) -> list[int]:
    """Return the records that the store reads by seq: the first (origin of a fork), migrations, a
    backfill."""
    found = db.tables.migrations()
    note = db.tables.get(keys.NOTE_BACKFILL)
    return [1, *found, *([keys.SEQ.unpack(note)[0]] if note else [])]


def frontier(tree: Tree, size: int) -> list[bytes]:
    """Return the roots of the perfect subtrees of the first `size` leaves, from left to right (RFC 9162)."""
    found, start = list[bytes](), 0
    for level in reversed(range(size.bit_length())):
        if not size >> level & 1:
            continue
        tile_level, first = level // 8, start >> level // 8 * 8  # counted in hashes of that tile level
        tile = tree.tile(tile_level, first // WIDTH, first % WIDTH + (1 << level % 8))
        found.append(node_in(tile, level % 8, first % WIDTH))
        start += 1 << level
    return found


class LocalArchive:
    """The log of a database in this process, in other places."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def backup(
        self, to: str | PathLike[str], *, hashes: bool | None = None, progress: OnProgress | None = None
    ) -> Backup:
        return backup(self._db, to, hashes=hashes, progress=progress)

    def move(
        self,
        target: str | PathLike[str] = "",
        *,
        keep_records: int = 0,
        keep_ns: int = 0,
        progress: OnProgress | None = None,
    ) -> Archival:
        if not target:
            raise OpenError("expected where to archive the log to, a directory or a URL, found no target")
        return archive(self._db, target, keep_records=keep_records, keep_ns=keep_ns, progress=progress)

    def removable(self, *, keep_records: int = 0, keep_ns: int = 0) -> tuple[int, str]:
        return removable(self._db, keep_records, keep_ns)

    def holds(self) -> dict[str, int]:
        return holds.read(self._db.directory)

    def hold(self, name: str, seq: int) -> None:
        holds.hold_in(self._db, name, seq)

    def release(self, name: str, *, actor: str = "", reason: str = "") -> None:
        holds.release_in(self._db, name, actor=actor, reason=reason)
