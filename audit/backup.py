"""Backup: the log of a database, copied as segments while writers go on. Incremental.

    log ─▶ blocks ─▶ each record checked, compressed ─▶ segment, on disk ─▶ read again, compared
                      in threads                        beside the next
                                                                      │
                                             manifest, whole ◀────────┘    after each segment

Any beginning of the log is a database as it was, so a backup that is interrupted or killed is one: up to
the last segment that its manifest lists. The next goes on there.

Small segments are merged, eight of a size into one, so that one that is made every day does not become
thousands, and each record is copied again some few times at most.

Invariants
  (1) the directory is a whole backup at every moment from the first manifest on;
  (2) nothing is in the manifest that was not read again from where it was written;
  (3) a segment that a manifest lists is removed only after a manifest without it is there.
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
MERGED = 8  # so many of a size become one
SMALLEST = 64 << 10


class Backup(msgspec.Struct, frozen=True):
    """What a backup came to: records `first` to `last` are new in it."""

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
    """Brings the backup in a directory, or behind a URL that fsspec knows, up to what is on disk now. Reads
    and writes go on. For a database on a server: `backup(RemoteLog(db), …)`, of
    `everlog.rpc.client.audit`.

    `hashes`: records what the tables contain, for `verify(deep=True)`; None: where there are few rows.
    Raises OpenError for the directory of another database or of a diverged one, CorruptionError for a
    record that does not check, DiskError. It does not write to the database.
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
    """`backup` from any source to any place; `until`: not further than this record."""
    with to.alone():
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
    """Segments of these blocks, which go on after what is known, and the last record of each."""
    before = known.last
    under_way: deque[Future[Packed]] = deque()
    done: list[Packed] = []
    size = 0
    with ThreadPoolExecutor(THREADS, "everlog-backup") as pool:
        for block in blocks:
            under_way.append(pool.submit(segments.pack_block, block.data, block.first, "the log"))
            size += len(block.data)
            if progress is not None:
                progress(Progress("back up", block.last, last, "records"))
            while len(under_way) > (AHEAD if len(block.data) <= 2 * BLOCK_BYTES else 0):
                done.append(under_way.popleft().result())
            if size >= SEGMENT_BYTES or block.last == last:
                done += [one.result() for one in under_way]
                under_way.clear()
                end = done[-1].last
                yield *segments.pack(known.uuid, before, done), end
                before, done, size = end, [], 0


def _stored(to: Place, packed: Iterator[tuple[Segment, list[bytes], Head]]) -> Iterator[tuple[Segment, Head]]:
    """The same segments, once they are where they belong: each is written, and read again, while the next
    is packed. Raises DiskError."""
    with ThreadPoolExecutor(1, "everlog-store") as beside:
        under_way: tuple[Future[None], Segment, Head] | None = None
        for made, parts, end in packed:
            before, under_way = under_way, (beside.submit(_store, to, made, parts), made, end)
            if before is not None:
                before[0].result()
                yield before[1:]
        if under_way is not None:
            under_way[0].result()
            yield under_way[1:]


def _store(to: Place, made: Segment, parts: list[bytes]) -> None:
    """Writes a segment, and reads it again. Raises DiskError if that gives something else."""
    to.write(made.name, *parts)
    parts.clear()
    if hashlib.sha256(to.read(made.name)).hexdigest() != made.sha256:
        raise DiskError(
            f"{to.url}/{made.name} is not what was written to it: the disk or the memory is broken",
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
    """Removes what a backup that was killed left."""
    listed = {MANIFEST, *(one.name for one in known.segments)}
    for name in to.names():
        if name not in listed and name.endswith((".zst", ".zst.new", f"{MANIFEST}.new")):
            to.remove(name)


def _merge(to: Place, known: Manifest, progress: OnProgress | None) -> tuple[Manifest, int]:
    """Makes one of the small segments at the end, where there are many; tells how much it wrote."""
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
    """How many of the last segments become one: eight or more that are no larger than one step of the
    ladder 64 KiB, 512 KiB, 4 MiB, 32 MiB, the highest that has as many."""
    limit, found = SMALLEST, 0
    while limit <= SEGMENT_BYTES:
        count = next((at for at, size in enumerate(reversed(sizes)) if size > limit), len(sizes))
        if count >= MERGED and sum(sizes[len(sizes) - count :]) <= SEGMENT_BYTES:
            found = count
        limit *= MERGED
    return found
