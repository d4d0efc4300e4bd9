"""Archive: the old log of a database goes to another place, and its disk shrinks.

    which records may go? ─▶ segments, at the target ─▶ read again ─▶ noted in ARCHIVE
                                                                           │
          compact, the disk is free ◀── removed, a Base in their place ◀── projections brought up to date
                                          one batch, durable

What is removed is read from the target wherever it is needed (`archived.py`): by a rebuild, a slow
follower, a history. Tables, what is known of loads and of commits that may be repeated, and the migrations
stay in the database, so that it does its work where the target cannot be reached.

What stays: the newest record; what `keep_records` and `keep_ns` say; what a hold names (`holds.py`); what
a registered consumer lacks, up to its cap; commits that may be repeated for as long as ids are remembered.

Invariants
  (1) a record is removed only after the target gave back what was written to it, and is noted;
  (2) killed at any point, each record is in the log, or in a noted target, or in both;
  (3) one archives a database at a time;
  (4) what may go is looked up once more at the moment of removal, while nobody holds or registers.
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
from everlog.audit.backup import back_up
from everlog.audit.place import Place, place
from everlog.audit.segment import head_of
from everlog.audit.source import LogSource
from everlog.audit.tiles import WIDTH, node_in
from everlog.audit.tree import Tree
from everlog.proto import log_pb2
from everlog.store import keys, record
from everlog.store.database import Database
from everlog.store.errors import DiskError, OpenError, ReadOnlyError, RowError
from everlog.store.progress import OnProgress, Progress
from everlog.store.rocks import files
from everlog.store.schema import codec

_LOCKS: weakref.WeakKeyDictionary[Database, threading.Lock] = weakref.WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


class Archival(msgspec.Struct, frozen=True):
    """What an archiving came to: the records up to `last` are at the target, the log begins after `base`
    and was trimmed of `removed` records; `held`: what kept more from going, in a few words. Bytes are
    those of all files of the database, before and after."""

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
    """Moves the log of a database to a directory, or to whatever fsspec has a URL for, but for the last
    `keep_records` records and those of the last `keep_ns` nanoseconds. Reads and writes go on. A target that
    lacks what went to another before gets that as well, from there.

    Raises ReadOnlyError, OpenError for a target that is of another database or diverged and while another
    archives it, DiskError: then nothing was removed. Writes to the target and to the database.
    """
    if db.read_only:
        raise ReadOnlyError(f"{db.url} was opened for reading; open it without read_only to archive")
    if keep_records < 0 or keep_ns < 0:
        raise RowError("expected to keep 0 records or more, and 0 seconds or more")
    with _alone(db):
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
    more = last > max(base, 1)  # the first alone is not worth a Base
    if more or archived.lacks(db.directory, target, base):
        _copy(db, target, max(last, base), progress)
        assert isinstance(older, archived.Archived)
        older.reload()
    if more:
        _bring_up_to_date(db, progress)
        if progress is not None:
            progress(Progress("remove", 0, last - base, "records"))
        _check_there(place(target), last)
        with files.locked(db.path), db.committer.alone():  # nobody holds, registers or commits meanwhile
            last, held = min((last, held), removable(db, keep_records, keep_ns))  # somebody may by now
            if last > base:
                _trim(db, last)
                removed = last - base
    if progress is not None:
        progress(Progress("compact", 0, None, "records"))
    db.engine.compact_log(keys.SEQ.pack(max(last, base)))
    db.log.merger.start()  # what a snapshot holds is freed once that is released
    return Archival(max(last, base), db.log.trimmed.base, removed, held, before, db.disk_bytes())


@contextlib.contextmanager
def _alone(db: Database) -> Iterator[None]:
    """While nobody else archives this database. Raises OpenError if somebody does."""
    with _LOCKS_LOCK:
        lock = _LOCKS.setdefault(db, threading.Lock())
    if not lock.acquire(blocking=False):
        raise OpenError(f"{db.url} is being archived now; wait for it", busy=True)
    try:
        yield
    finally:
        lock.release()


def removable(db: Database, keep_records: int, keep_ns: int, *, repeatable: bool = True) -> tuple[int, str]:
    """The last record that may go, and what holds the next; without `repeatable` the commits that may be
    repeated are left out, which reads less. Read-only."""
    newest = min(db.head, db.tables.applied)  # records on disk may not be in the tables yet
    found = [(newest - 1, "the newest record stays"), (newest - keep_records, f"{keep_records:,} are kept")]
    if keep_ns:
        found.append((_before(db, time.time_ns() - keep_ns), "those of some time are kept"))
    found += [(seq - 1, f"hold {name!r}") for name, seq in holds.read(db.directory).items()]
    found += [(one.position.seq, f"consumer {one.name!r}") for one in db.consumers if not one.over]
    if repeatable and (first := _repeatable(db)):
        hours = f"{db.committer.idempotency_s / 3600:g}"
        found.append((first - 1, f"commits of the last {hours} hours may be repeated under their ids"))
    return min(found)


def _before(db: Database, time_ns: int) -> int:
    """The last record before a time."""
    low, high = db.log.trimmed.base, db.head + 1
    while high - low > 1:
        middle = (low + high) // 2
        if head_of(db.log.get(middle)).time_ns < time_ns:
            low = middle
        else:
            high = middle
    return low


def _repeatable(db: Database) -> int:
    """The first record whose commit may still be repeated under its id; 0: there is none.

    Ids begin with their time (UUIDv7), so a range of them is read. That time is of the clock of a client: one
    that is ahead holds nothing for longer than others, for the time of its record counts as well.
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
    """The target has all records up to `last`, and is noted, or this raises."""
    if archived.reach(target) < db.log.trimmed.base:
        db.log.trimmed.some(0, 1, 1)  # they come from another target: asked before a directory is made
    where, source = place(target, create=True), LogSource(db)
    try:
        back_up(source, where, until=last, hashes=False, progress=progress)
    finally:
        source.close()
    archived.note(db.directory, where.noted, last)


def _check_there(where: Place, last: int) -> None:
    """Raises DiskError if the target lists less than was written to it, or lacks a file: in an object store
    nobody is kept from writing beside, and who does takes the other's segments for what a kill left."""
    manifest, there = manifests.needed(where), set(where.names())
    missing = [one.name for one in manifest.segments if one.name not in there]
    if manifest.head.seq < last or missing:
        what = f"its segment {missing[0]} is gone" if missing else f"it ends with record {manifest.head.seq}"
        raise DiskError(
            f"{where.url} had records up to {last}, and now {what}: somebody else writes there. Nothing was"
            " removed from the database; archive it to a place of its own",
            outcome="nothing written",
        )


def _bring_up_to_date(db: Database, progress: OnProgress | None) -> None:
    """All that is made from the log has seen what goes, and has it on disk."""
    db.past.catch_up(progress=progress)
    Tree(db).catch_up(progress)
    db.tables.flush()
    db.engine.flush()
    db.log.write_head_file(sync=True)


def _trim(db: Database, last: int) -> None:
    """Removes the records up to `last`, while nobody commits."""
    framed = db.log.get(last)
    end, tree = head_of(framed), Tree(db)
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
    with db.committer.alone():
        db.log.trim(record.frame(commit), [(seq, db.log.get(seq)) for seq in kept])


def _looked_up(db: Database) -> list[int]:
    """Records that the store itself looks up by their seq: the first says where a fork is from."""
    found = db.tables.migrations()
    note = db.tables.get(keys.NOTE_BACKFILL)
    return [1, *found, *([keys.SEQ.unpack(note)[0]] if note else [])]


def frontier(tree: Tree, size: int) -> list[bytes]:
    """The roots of the perfect subtrees of the first `size` leaves, from left to right (RFC 9162)."""
    found, start = list[bytes](), 0
    for level in reversed(range(size.bit_length())):
        if not size >> level & 1:
            continue
        tile_level, first = level // 8, start >> level // 8 * 8  # in hashes of the level of that tile
        tile = tree.tile(tile_level, first // WIDTH, first % WIDTH + (1 << level % 8))
        found.append(node_in(tile, level % 8, first % WIDTH))
        start += 1 << level
    return found
