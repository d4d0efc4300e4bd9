"""Log: the truth. Framed records at dense positions; everything else is derived from them.

    append ─▶ written ─▶ sync ─▶ head ─▶ listeners, readers, feed
                          │
              never visible before it is on disk

    read(after, max_bytes) ─▶ records joined, byte for byte, up to the head

The interface is small because another engine may stand behind it: append at an expected position, read,
follow, trim.

`Trimmed` is the beginning of a log, archived and removed:

    log    [ removed … ] Base at `base` ─▶ base + 1 ─▶ …
    kept   seq ─▶ framed record      the removed records that the store looks up: the first, migrations
    older  the archive               all removed records; supplied by the caller that opens the database

The Base takes the seq of the last record that it stands for, and holds that record's checksum, so that a
cursor at this position still identifies its history.

`Merger` keeps the number of the log's files small. It merges small ones while others read and write:

    each flush, each closing ─▶ one more file of the log ─▶ eight or more ─▶ one

RocksDB merges files whose keys overlap, and moves others unchanged. The log's files never overlap, so a
database that is opened for one commit and closed would gain one file each time, without limit, and a reader
beside a writer opens all of them.

Removed data (archived records, dropped tables and indexes, deleted rows) stays on disk while a snapshot
sees it. RocksDB's files record how much of it they hold. Once no snapshot sees it, these files are
rewritten: when the snapshot is released, at the next check, or when the database is closed or opened.

Invariants
  (1) seq runs 1, 2, 3 … (after a trim: from `oldest`) without gaps;
  (2) nothing after `head` is read by anybody but the committer;
  (3) a read returns exactly what was requested, or an error that names the seq;
  (4) a removed record was in a verified archive before: a removal is one batch;
  (5) a record that is no longer held anywhere is reported as an error, never as a gap;
  (6) a merge covers at most LOG_FILE_BYTES, its largest file at most a quarter of it: each record is copied
      again a few times at most, and closing takes no longer than that;
  (7) one merge runs at a time, and none after `close`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Protocol

from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.errors import CorruptionError, CursorError, DiskError, Error
from everlog.store.keys import SEQ
from everlog.store.measures import Measures
from everlog.store.progress import interruption_point
from everlog.store.rocks import files
from everlog.store.rocks.engine import KEPT, LOG_FILE_BYTES, Engine
from everlog.store.rocks.errors import translate, translated, verify_end
from everlog.store.rocks.view import take


class Older(Protocol):
    """An archive of removed records."""

    @property
    def last(self) -> int:
        """The newest record in it; it has all earlier ones. 0: none."""

    def get(self, seq: int) -> bytes:
        """Return one framed record. Raises CursorError and CorruptionError that name the missing file."""

    def some(self, after: int, until: int, max_bytes: int) -> tuple[list[bytes], int]:
        """Return at least one record after `after`, and the seq of the last one."""

    def reload(self) -> None:
        """Read again what the archive holds."""


class Trimmed:
    """The removed part of a log: records 1 to `base`; 0: nothing was removed."""

    def __init__(self, engine: Engine, first: tuple[bytes, bytes] | None, older: Older | None = None) -> None:
        self._engine = engine
        self.base = self.checksum = self.time_ns = 0
        self.older = older
        self.first = SEQ.unpack(first[0])[0] if first else 0  # the first record in the log itself
        if first and self.first > 1:
            commit = record.decode(first[1], self.first)
            if commit.HasField("base"):
                self.base, self.checksum = self.first, commit.base.checksum
                self.time_ns = commit.time_ns

    @property
    def is_archived(self) -> bool:
        """Whether the given archive has everything that was removed."""
        return self.older is not None and self.older.last >= self.base

    def get(self, seq: int) -> bytes | None:
        """Return a removed record; None for the one that the Base replaces, if there is no archive. Raises
        CursorError."""
        kept = self._engine.side(KEPT, make=False)
        if kept is not None:
            with translated(f"reading the kept record {seq}"):
                framed: bytes | None = kept[0].get(SEQ.pack(seq))
            if framed is not None:
                return framed
        if self.older is not None and self.older.last >= seq:
            return self.older.get(seq)
        if seq == self.base:
            return None
        raise self._gone(seq)

    def kept(self) -> list[tuple[int, bytes]]:
        """Return the removed records that were kept for look-ups, unchecked, each with its seq, in order."""
        kept = self._engine.side(KEPT, make=False)
        if kept is None or not self.base:
            return []
        with translated("reading the kept records"):
            verifier = kept[0].iter()
            found: list[Any] = list(kept[0].items())
            verify_end(verifier, found[-1][0] if found else None, b"", b"\xff" * 9)
        return [(SEQ.unpack(key)[0], framed) for key, framed in found]

    def some(self, after: int, until: int, max_bytes: int) -> tuple[list[bytes], int]:
        """Return at least one removed record after `after`. Raises CursorError."""
        if self.older is None or self.older.last <= after:
            raise self._gone(after + 1)
        return self.older.some(after, min(until, self.base), max_bytes)

    def all(self, after: int, until: int) -> Iterator[bytes]:
        """Yield the removed records, in order. Raises CursorError."""
        while after < until:
            some, after = self.some(after, until, 1 << 20)
            yield from some

    def _gone(self, seq: int) -> CursorError:
        return CursorError(
            f"the log starts at {self.base + 1}: record {seq} was archived and removed, and no known archive"
            " has it; restore the archive's directory, or start again from a snapshot",
            seq=seq,
            oldest=self.base + 1,
        )


def edge(engine: Engine, *, first: bool) -> tuple[bytes, bytes] | None:
    """Return key and value of the first, or the last, record in the log; None: the log is empty."""
    cursor: Any = engine.log.iter()
    try:
        cursor.seek_to_first() if first else cursor.seek_to_last()
        if not cursor.valid():
            cursor.status()
            return None
        return cursor.key(), cursor.value()
    finally:
        del cursor  # otherwise a kept traceback would keep the database locked


LEAST = 8  # minimum number of files to merge
LARGEST = 4  # a file larger than 1/LARGEST of the merge is left as it is
EVERY_S = 30.0
FIRST_S = 1.0  # from opening to the first check: programs with one commit need not wait for it
HELD_S = 1.0  # between two checks whether a snapshot still sees removed data
LEAST_DELETED, PART = 16, 10  # minimum number of deletions, and their minimum share (1/PART) of all entries
AT_CLOSE_BYTES = 64 << 20  # closing frees tables up to this size


class Merger:
    """Merges the files of one open database's log, and frees removed entries. The committer calls `look`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._looked_at = (
            time.monotonic() - EVERY_S
        )  # so the first commit checks: killed processes leave files
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._left: dict[
            bool, tuple[int, int, int]
        ] = {}  # counts after the last compaction, by log and tables

    def look(self) -> None:
        """Check from time to time whether there is work, and start the thread that does it."""
        now = time.monotonic()
        if now - self._looked_at < EVERY_S:
            return
        self._looked_at = now
        self.start()

    def begin(self) -> None:
        """Check for the first time, on another thread, shortly after the opening."""
        self._thread = threading.Thread(target=self._first, name="everlog-merger", daemon=True)
        self._thread.start()

    def _first(self) -> None:
        if not self._closed.wait(FIRST_S):
            self._run()

    def start(self) -> threading.Thread | None:
        """Return the thread that merges and frees, started if there is work."""
        with self._lock:
            idle = self._thread is None or not self._thread.is_alive()
            if idle and not self._closed.is_set() and (self._found() is not None or self._removed()):
                self._thread = threading.Thread(target=self._run, name="everlog-merger", daemon=True)
                self._thread.start()
            return self._thread

    def _run(self) -> None:
        with contextlib.suppress(Error):  # nothing changed, and the next check tries again
            self._merge()
            while removed := self._removed():
                sequence = self._engine.sequence
                while self._engine.holds_before(sequence):
                    if self._closed.wait(HELD_S):
                        return
                    self._merge()
                for log in removed:
                    self._free(log=log)

    def _merge(self) -> None:
        while not self._closed.is_set() and (found := self._found()) is not None:
            self._engine.merge_log(*found)

    def _removed(self) -> list[bool]:
        """Return which of the log (True) and the tables (False) have removed entries on disk."""
        found = []
        for log in (True, False):
            entries, deletions, ranges = counted = self._engine.removed(log=log)
            many = ranges or deletions >= max(LEAST_DELETED, entries // PART)
            if many and counted != self._left.get(log):
                found.append(log)
        return found

    def _free(self, *, log: bool) -> None:
        if log:
            first = edge(self._engine, first=True)
            self._engine.compact_log(first[0] if first else b"\xff")
        else:
            self._engine.compact_data(b"", b"\xff" * 16)
        self._left[log] = self._engine.removed(log=log)

    def _found(self) -> tuple[bytes, bytes] | None:
        """Return the keys of the first and the last record to merge into one file."""
        files = self._engine.log_files()
        run = to_merge([size for size, _, _ in files])
        return (files[run.start][1], files[run.stop - 1][2]) if run else None

    def close(self) -> None:
        """Wait for the running merge, and free the rest, as no snapshot is open any more. Raises Error."""
        with self._lock:
            self._closed.set()
        if self._thread is not None:
            self._thread.join()
        if (found := self._found()) is not None:
            self._engine.merge_log(*found)
        for log in self._removed():
            if log or self._engine.data_bytes() <= AT_CLOSE_BYTES:
                self._free(log=log)


def to_merge(sizes: list[int]) -> range:
    """Return which files to merge: the newest that qualify, as many as possible."""
    for end in range(len(sizes), LEAST - 1, -1):
        found = whole = largest = 0
        for count, size in enumerate(reversed(sizes[:end]), 1):
            whole, largest = whole + size, max(largest, size)
            if whole > LOG_FILE_BYTES:
                break
            if count >= LEAST and largest * LARGEST <= whole:
                found = count
        if found:
            return range(end - found, end)
    return range(0)


BATCH_BYTES_MAX = 256 << 10
SCANNED_AT_ONCE = 512  # records, if they are small: a chunk is bounded in bytes as well (rocks/view.py)
RECENT_RECORDS, RECENT_BYTES = 4096, 4096  # newest records kept in memory, and the size limit of each
HEAD_FILE_EVERY_S = 1.0
EACH_FIRST, EACH_MAX = 4, 8  # records of `get_each` that are read together: the largest fit into memory
EACH_BYTES = 1 << 20  # after more than this in one batch, the next ones have EACH_FIRST records

_key = SEQ.pack


class Log:
    """The log of one open database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.refusal = engine.refusal
        self._listeners: list[Callable[[], None]] = []
        self._recent: dict[int, bytes] = {}  # the newest records, for subscribers at the tail
        self._head_file_at = time.monotonic()
        self._head_file_lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self.measures: Measures | None = None  # None: nothing is measured
        self.merger = Merger(engine)
        self.trimmed = Trimmed(engine, None)
        self.reopen()

    def reopen(self) -> None:
        """Read again from RocksDB where the log begins and ends."""
        with translated("opening the log"):
            first, last = edge(self._engine, first=True), edge(self._engine, first=False)
        self.trimmed = Trimmed(self._engine, first, self.trimmed.older)
        if (older := self.trimmed.older) is not None and not self.trimmed.is_archived:
            older.reload()  # a reader, beside a process that has archived more since
        self.written = SEQ.unpack(last[0])[0] if last else 0  # last seq handed to the operating system
        self.head = self.written  # last seq on disk
        self._last = last[1] if last else b""

    @property
    def oldest(self) -> int:
        """The first readable record: 1 if nothing was removed or the archive has it, else the Base."""
        return 1 if self.trimmed.is_archived else self.trimmed.first

    @property
    def checksum(self) -> int:
        """The checksum of the record at `written`; 0 for an empty log."""
        return record.checksum_of(self._last) if self._last else 0

    def append(self, framed: list[bytes]) -> None:
        """Write records at `written` + 1 and following to the operating system. One caller at a time.

        Raises DiskError: none of them was written.
        """
        seq = self.written
        if len(framed) == 1:
            self._engine.append_record(_key(seq + 1), framed[0])
        else:
            self._engine.append_records([(_key(seq + at), one) for at, one in enumerate(framed, 1)])
        recent = self._recent
        for one in framed:
            seq += 1
            recent.pop(seq - RECENT_RECORDS, None)
            if len(one) <= RECENT_BYTES:
                recent[seq] = one
        self.written = seq
        self._last = framed[-1]
        if not self.trimmed.first:
            self.trimmed.first = 1

    def sync(self, *, beside: bool = False) -> None:
        """Wait until everything appended before this call is on disk. `beside`: others may append meanwhile.

        Raises DiskError: whether it is on disk is unknown.
        """
        upto = self.written
        began_s = time.perf_counter()
        self._engine.sync_beside() if beside else self._engine.sync_log()
        took_s = time.perf_counter() - began_s
        with self._sync_lock:
            self.head = max(self.head, upto)
            if self.measures is not None:
                self.measures.syncs.add(took_s)

    def resume(self) -> None:
        """Sync again after the disk was full. Raises DiskError while there is no room."""
        upto = self.written
        self._engine.resume()
        with self._sync_lock:
            self.head = max(self.head, upto)

    def notify(self) -> None:
        """Notify the listeners that the head has moved; from time to time also write the file HEAD and call
        the merger."""
        for listener in self._listeners:
            listener()
        if time.monotonic() - self._head_file_at > HEAD_FILE_EVERY_S:
            with contextlib.suppress(DiskError):  # the commits are on disk; try again later
                self.write_head_file(sync=False)
            self.merger.look()

    def on_advance(self, listener: Callable[[], None]) -> None:
        """Call `listener` after the head moved, on the thread that commits. It must return quickly."""
        self._listeners = [*self._listeners, listener]

    def off_advance(self, listener: Callable[[], None]) -> None:
        """Stop calling `listener`."""
        self._listeners = [known for known in self._listeners if known != listener]

    def get(self, seq: int) -> bytes:
        """Return the framed record at `seq`. Read-only. Raises CursorError outside the log, and
        CorruptionError."""
        framed = self._recent.get(seq)
        if framed is None and 0 < seq <= self.trimmed.base:
            framed = self.trimmed.get(seq)
        if framed is None:
            if not self.oldest <= seq <= self.written:
                raise CursorError(
                    f"the log holds records {self.oldest} to {self.head}, but not {seq}", seq=seq
                )
            try:
                framed = self._engine.log.get(_key(seq))
            except Exception as error:
                raise translate(error, f"reading record {seq} of the log") from error
            if framed is None:
                if seq < self.trimmed.base:  # it was trimmed meanwhile
                    return self.get(seq)
                raise CorruptionError(f"record {seq} of the log is missing", seq=seq)
        return framed

    def get_each(self, seqs: list[int]) -> Iterator[bytes]:
        """Yield the framed records at some seqs; small ones are read together. Read-only."""
        at, most = 0, EACH_FIRST
        while some := seqs[at : at + most]:
            interruption_point()
            with translated("reading the log"):
                found: Any = self._engine.log.get([_key(seq) for seq in some])
            base = self.trimmed.base  # what lies there stands for another, which was archived
            at, size = at + len(some), sum(map(len, filter(None, found)))
            most = EACH_FIRST if size > EACH_BYTES else EACH_MAX
            for seq, framed in zip(some, found, strict=True):
                yield framed if framed and seq != base else self.get(seq)

    def commit(self, seq: int) -> log_pb2.Commit:
        """Return the record at `seq`, checked and decoded. Read-only."""
        return record.decode(self.get(seq), seq)

    def created(self) -> log_pb2.Created:
        """Return the content of the first record, which is kept when the log is trimmed; empty if it was
        not. Read-only."""
        try:
            return self.commit(1).created
        except CursorError:
            return log_pb2.Created()

    def beginning(self) -> log_pb2.Commit:
        """Return the first record in the log itself: Created, or the Base that replaces archived records.
        Read-only."""
        with translated("reading the beginning of the log"):
            framed = self._engine.log.get(_key(self.trimmed.first))
        if framed is None:
            raise CorruptionError(
                f"record {self.trimmed.first} of the log is missing", seq=self.trimmed.first
            )
        return record.decode(framed, self.trimmed.first)

    def checksum_at(self, seq: int) -> int:
        """Return the checksum in the record at `seq`; 0 for seq 0. Read-only."""
        if seq == self.trimmed.base:
            return self.trimmed.checksum
        if not seq:
            return 0
        return record.checksum_of(self.get(seq))

    def cursor(self, seq: int, database: bytes) -> log_pb2.Cursor:
        """Return the cursor after the record at `seq`. Read-only."""
        return log_pb2.Cursor(database=database, seq=seq, checksum=self.checksum_at(seq))

    def read(
        self, after: int, max_bytes: int = BATCH_BYTES_MAX, until: int | None = None
    ) -> tuple[bytes, int]:
        """Return records after `after`, joined, and the seq of the last one. Read-only.

        At most `max_bytes`, but at least one record if there is one; (b"", after) at the head. Raises
        CursorError before the oldest record, and CorruptionError that names the seq.
        """
        last = self.head if until is None else min(until, self.head)
        if after >= last:
            return b"", after
        if after < self.trimmed.base:
            parts, seq = self.trimmed.some(after, last, max_bytes)
            return b"".join(parts), seq
        parts = []
        size = 0
        source = self._from(after + 1, last)
        for framed in islice(source, last - after):
            parts.append(framed)
            size += len(framed)
            if size >= max_bytes:
                break
        if size > max_bytes and len(parts) > 1:
            parts.pop()
        seq = after + len(parts)
        if not parts or record.seq_of(parts[-1]) != seq:
            del source  # otherwise a kept traceback would keep the database locked
            if after < self.trimmed.base:  # it was trimmed meanwhile
                return self.read(after, max_bytes, until)
            raise self._missing(after, last)  # an earlier call read the records before the damage
        return b"".join(parts), seq

    def _from(self, seq: int, last: int) -> Iterator[bytes]:
        recent = self._recent
        if seq in recent:
            parts = []
            for at in range(seq, min(last, seq + 4096) + 1):
                framed = recent.get(at)
                if framed is None:
                    break
                parts.append(framed)
            else:
                if last <= seq + 4096:
                    return iter(parts)
        with translated(f"reading record {seq} of the log"):
            return self._engine.log.values(from_key=_key(seq), read_opt=self._engine.once)

    def scan(self, after: int = 0, until: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield each framed record after `after`, with its seq, up to `until` or what is written.
        Read-only.

        Raises CorruptionError that names the seq where it cannot continue.
        """
        last = self.written if until is None else min(until, self.written)
        seq = max(after, self.oldest - 1)
        while seq < last:
            interruption_point()
            if seq < self.trimmed.base and self.trimmed.is_archived:
                for framed in self.trimmed.all(seq, min(last, self.trimmed.base)):
                    seq += 1
                    yield seq, framed
                continue
            with translated(f"reading record {seq + 1} of the log"):
                source = self._engine.log.items(from_key=_key(seq + 1), read_opt=self._engine.once)
                chunk: list[tuple[Any, bytes]] = take(source, min(SCANNED_AT_ONCE, last - seq))
            # Keys ascend, so the last key shows whether the chunk has a gap.
            if not chunk or SEQ.unpack(chunk[-1][0])[0] != seq + len(chunk):
                if self.trimmed.is_archived and seq < self.trimmed.base:  # it was trimmed meanwhile
                    continue
                raise self._missing(seq, last)
            del source  # hold no RocksDB object while the caller runs
            for _, framed in chunk:
                seq += 1
                yield seq, framed

    def trim(self, base: bytes, kept: list[tuple[int, bytes]]) -> None:
        """Replace the records up to the seq of `base`, a framed Base, by it, in one durable step; `kept`
        stay for look-ups.

        No append may run meanwhile, and the given archive must have the records. Raises DiskError.
        """
        seq = record.seq_of(base)
        trimmed = Trimmed(self._engine, (_key(seq), base), self.trimmed.older)
        assert trimmed.checksum == self.checksum_at(seq)
        assert trimmed.is_archived, "the archive has the removed records"
        self.trimmed = trimmed  # first: readers of removed records look there from now on
        try:
            self._engine.trim(_key(seq), base, [(_key(at), framed) for at, framed in kept])
        except DiskError:
            self.reopen()
            raise
        for at in range(max(1, seq - RECENT_RECORDS), seq + 1):
            self._recent.pop(at, None)

    def cut(self, last: int) -> None:
        """Remove the records after `last`, durably. Only while opening (opening.py). Raises DiskError."""
        self._engine.cut_log(_key(last + 1))
        self.reopen()

    def end_at(self, last: int) -> None:
        """End the log at `last` for this reader; writes nothing."""
        self._last = self.get(last)
        self.written = self.head = last

    def _missing(self, after: int, last: int) -> CorruptionError:
        """Return an error that names the first unreadable record between `after` and `last`."""
        for seq in range(after + 1, last + 1):
            try:
                self.get(seq)
            except CorruptionError as error:
                return CorruptionError(
                    f"record {seq} of the log cannot be read ({error}); the records before it can."
                    " Restore a backup, or cut the log before it with `everlog repair`",
                    seq=seq,
                )
        return CorruptionError(
            f"the log between {after} and {last} could not be read in order", seq=after + 1
        )

    def write_head_file(self, *, sync: bool) -> None:
        """Write the head to the file HEAD; `sync` waits until it is on disk. Raises DiskError."""
        with self._head_file_lock:  # shared by the flusher and committing threads
            self._head_file_at = time.monotonic()
            seq = self.head
            if seq and self._engine.stopped is None:
                path = self._engine.at / files.HEAD
                files.write(path, files.Head(seq, self.checksum_at(seq)), sync=sync)

    def check_head(self, known: files.Head | None) -> None:
        """Compare the log with the HEAD file from before it was opened. Raises CorruptionError for a loss."""
        if known is None:
            return
        if known.seq > self.written or (
            known.seq >= self.oldest and self.checksum_at(known.seq) != known.checksum
        ):
            raise CorruptionError(
                f"{self._engine.path}: the log was on disk up to record {known.seq} (checksum"
                f" {known.checksum:08x}), found it up to {self.written}: its end is lost or changed."
                " Restore a backup, or accept what is left with `everlog repair`",
                seq=min(known.seq, self.written + 1),
            )
