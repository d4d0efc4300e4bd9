"""Backup: copy the log of a database as segments, incrementally, while writes continue.

    log ─▶ blocks ─▶ each record checked, compressed ─▶ segment, on disk ─▶ read again, compared
                      in threads                        beside the next
                                                                      │
                                             manifest, whole ◀────────┘    after each segment

Any prefix of the log is a complete earlier state of the database. So an interrupted or killed backup is a
valid one, up to the last segment in its manifest, and the next backup continues there.

Small segments are merged, eight of a size into one. So daily backups do not become thousands of files, and
each record is copied again only a few times.

Invariants
  (1) the directory is a complete backup at every moment from the first manifest on;
  (2) a segment is listed in the manifest only after it was read again from where it was written;
  (3) a listed segment is removed only after a manifest without it was written.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from os import PathLike

import msgspec

from everlog.audit import manifest as manifests
from everlog.audit import segment as segments
from everlog.audit.manifest import MANIFEST, Manifest
from everlog.audit.place import Place, place
from everlog.audit.reader import Reader
from everlog.audit.segment import BLOCK_BYTES, SEGMENT_BYTES, Head, Packed, Segment
from everlog.audit.source import LogSource, Records, Source
from everlog.store.database import Database
from everlog.store.errors import DiskError
from everlog.store.progress import OnProgress, Progress
from everlog.store.upkeep.status import software

THREADS = 2
AHEAD = 4  # blocks that are compressed while others are read
MERGED = 8  # segments of a size that are merged into one
SMALLEST = 64 << 10


class Backup(msgspec.Struct, frozen=True):
    """Result of a backup: records `first` to `last` are new in it. Sizes are in bytes."""

    first: int
    last: int
    segments: int
    written_bytes: int
    total_bytes: int

    @property
    def records(self) -> int:
        return self.last - self.first + 1


def backup(
    db: Database | Source,
    to: str | PathLike[str],
    *,
    hashes: bool | None = None,
    progress: OnProgress | None = None,
) -> Backup:
    """Bring the backup in a directory, or at a URL that fsspec supports, up to what is durable now.

    Reads and writes continue. `db.archive.backup` is the same for a database on a server.

    `hashes`: record the content hashes of the tables, for `verify_backup(deep=True)`; None records them for a
    database of few rows. Returns a `Backup`. Raises OpenError if the directory is of another database or of
    a diverged one, CorruptionError for a damaged record, and DiskError. Does not write to the database.
    """
    source = LogSource(db) if isinstance(db, Database) else db
    try:
        return back_up(source, place(to, create=True), hashes=hashes, progress=progress)
    finally:
        source.close()


def back_up(
    source: Source,
    to: Place,
    *,
    until: int | None = None,
    hashes: bool | None = None,
    progress: OnProgress | None = None,
) -> Backup:
    """Back up any source to any place; `until` is the last record to copy, the newest if None."""
    with to.exclusive():
        known = manifests.read(to) or manifests.empty(source.database)
        if known.segments:
            source.check(known.cursor())
        _sweep(to, known)
        first, last = known.head.seq + 1, source.head if until is None else min(until, source.head)
        written = 0
        for made, end in _stored(to, _packed(source.blocks(known.head.seq, last), known, last, progress)):
            written += made.size
            known = _with(known, made, end)
            manifests.write(to, known)
        known, merged = _merge(to, known, progress)
        taken = (
            source.hashes(progress, any_size=bool(hashes)) if hashes is not False and until is None else None
        )
        if taken is not None and taken.seq == known.head.seq and taken != known.hashes:
            known = msgspec.structs.replace(known, hashes=taken)
            manifests.write(to, known)
        total = sum(one.size for one in known.segments)
        return Backup(first, known.head.seq, len(known.segments), written + merged, total)


def _packed(
    blocks: Iterator[Records], known: Manifest, last: int, progress: OnProgress | None
) -> Iterator[tuple[Segment, list[bytes], Head]]:
    """Yield segments of these blocks, which continue `known`, with the last record of each."""
    before = known.last
    in_progress: deque[Future[Packed]] = deque()
    done: list[Packed] = []
    size = 0
    with ThreadPoolExecutor(THREADS, "everlog-backup") as pool:
        for block in blocks:
            in_progress.append(pool.submit(segments.pack_block, block.data, block.first, "the log"))
            size += len(block.data)
            if progress is not None:
                progress(Progress("back up", block.last, last, "records"))
            while len(in_progress) > (AHEAD if len(block.data) <= 2 * BLOCK_BYTES else 0):
                done.append(in_progress.popleft().result())
            if size >= SEGMENT_BYTES or block.last == last:
                done += [one.result() for one in in_progress]
                in_progress.clear()
                end = done[-1].last
                yield *segments.pack(known.uuid, before, done), end
                before, done, size = end, [], 0


def _stored(to: Place, packed: Iterator[tuple[Segment, list[bytes], Head]]) -> Iterator[tuple[Segment, Head]]:
    """Yield the same segments once they are stored: each is written and read again while the next is
    packed. Raises DiskError."""
    with ThreadPoolExecutor(1, "everlog-store") as beside:
        in_progress: tuple[Future[None], Segment, Head] | None = None
        for made, parts, end in packed:
            before, in_progress = in_progress, (beside.submit(_store, to, made, parts), made, end)
            if before is not None:
                before[0].result()
                yield before[1:]
        if in_progress is not None:
            in_progress[0].result()
            yield in_progress[1:]


def _store(to: Place, made: Segment, parts: list[bytes]) -> None:
    """Write a segment, and read it again. Raises DiskError if the bytes differ."""
    to.write(made.name, *parts)
    parts.clear()
    if hashlib.sha256(to.read(made.name)).hexdigest() != made.sha256:
        raise DiskError(
            f"{to.url}/{made.name} does not contain the bytes written to it: the disk or the memory is"
            " faulty",
            outcome="nothing written",
        )


def _with(known: Manifest, made: Segment, end: Head) -> Manifest:
    return msgspec.structs.replace(
        known,
        segments=[*known.segments, made],
        head=manifests.position(end),
        hashes=None,
        software=software(),
    )


def _sweep(to: Place, known: Manifest) -> None:
    """Remove the files that a killed backup left."""
    listed = {MANIFEST, *(one.name for one in known.segments)}
    for name in to.names():
        if name not in listed and name.endswith((".zst", ".zst.new", f"{MANIFEST}.new")):
            to.remove(name)


def _merge(to: Place, known: Manifest, progress: OnProgress | None) -> tuple[Manifest, int]:
    """Merge small segments at the end, if there are many; return the manifest and the bytes written."""
    count = to_merge([one.raw for one in known.segments])
    if not count:
        return known, 0
    kept, old = known.segments[:-count], known.segments[-count:]
    begin = msgspec.structs.replace(
        known, segments=kept, head=manifests.Position(old[0].first - 1, 0, old[0].schema, old[0].before)
    )
    written = 0
    merged, hashes = begin, known.hashes
    blocks = Reader(to, known).blocks(old[0].first - 1, known.head.seq)
    for made, end in _stored(to, _packed(blocks, begin, known.head.seq, progress)):
        merged = _with(merged, made, end)
        written += made.size
    merged = msgspec.structs.replace(merged, hashes=hashes, head=known.head)
    manifests.write(to, merged)
    _sweep(to, merged)
    return merged, written


def to_merge(sizes: list[int]) -> int:
    """Return how many of the last segments to merge into one: eight or more that are no larger than one step
    of the ladder 64 KiB, 512 KiB, 4 MiB, 32 MiB; the highest step that has as many."""
    limit, found = SMALLEST, 0
    while limit <= SEGMENT_BYTES:
        count = next((at for at, size in enumerate(reversed(sizes)) if size > limit), len(sizes))
        if count >= MERGED and sum(sizes[len(sizes) - count :]) <= SEGMENT_BYTES:
            found = count
        limit *= MERGED
    return found
