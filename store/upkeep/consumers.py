"""Consumers: who follows this log under a durable name, how far each is, and what is held for it.

    register ─▶ Notice `consumer.registered` ─▶ a note in the tables        who, since when, up to which cap
    bookmark ─▶ upkeep/consumers.py                                              how far
        both ─▶ Consumer: its lag, and what archiving leaves in the log for it

A cap bounds what is held: beyond it nothing is, so that nobody who went away for ever fills the disk.
What is archived then can still be read, through the archive.

Invariants
  (1) a consumer stands at a record of this log, in this history, or is refused;
  (2) what is held begins after its bookmark, which is never ahead of what it has (upkeep/consumers.py).

Bookmarks: how far the consumers are that registered under a name: the file BOOKMARKS beside EVERLOG.

    BOOKMARKS := {"format": 1, "bookmarks": {"<name>": {"seq": 812, "checksum": …, "time_ns": …, "turn": …}}}

    the consumer has it durably ─▶ move ─▶ memory ─▶ the file, once a second at most

They are not in the log, or each of them would be a commit that everybody follows.

Invariants
  (1) a bookmark is never ahead of what its consumer said to have; it may be behind;
  (2) the last to register under a name has it, by its epoch; the previous holder is refused;
  (3) within an epoch a bookmark never goes back;
  (4) a file that is none is an error that says so, and what is held by it stays; rows need none of it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from google.protobuf.message import DecodeError

from everlog.proto import consumers_pb2, log_pb2
from everlog.store import keys, record
from everlog.store.core import Core
from everlog.store.errors import CorruptionError, CursorError, DiskError, OpenError, ReadOnlyError, RowError
from everlog.store.rocks import files
from everlog.store.schema import arguments, codec
from everlog.store.tables.projection import REGISTERED, REMOVED
from everlog.store.tx.transaction import Metadata

EVERY_S = 1.0
REMEDY = (
    "Put a copy of it back, or delete it: then each consumer is where it registered, and registers again"
    " when it runs the next time. Until then nothing is archived; rows are read and written"
)


class Bookmark(msgspec.Struct, frozen=True):
    """Up to which record a consumer has everything, when it said so (0: it never did), and whose it is."""

    seq: files.Count
    checksum: Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
    time_ns: files.Count
    epoch: files.Count = msgspec.field(name="turn")


class File(msgspec.Struct):
    """What the file says."""

    format: files.Known
    bookmarks: dict[str, Bookmark]


class Bookmarks:
    """Those of an open database. Safe to use from many threads, and beside other processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._moved: dict[str, Bookmark] = {}  # and not in the file yet
        self._due = 0.0

    def all(self) -> dict[str, Bookmark]:
        """By name, the newest that is known. Read-only. Raises OpenError if the file is none."""
        found = self._read()
        found.update({name: one for name, one in self._moved.copy().items() if _goes_on(found, name, one)})
        return found

    def take(self, name: str, seq: int, checksum: int) -> Bookmark:
        """Gives a name to whoever registers under it, at this position; the one before has it no more.
        Writes. Raises DiskError."""
        with self._lock, files.locked(self._path):
            found = self._read()
            known = found.get(name)
            epoch = max(time.time_ns() // 1000, known.epoch + 1 if known else 0)
            found[name] = Bookmark(seq, checksum, known.time_ns if known else 0, epoch)
            self._write(found)
            return found[name]

    def move(self, name: str, epoch: int, seq: int, checksum: int) -> None:
        """Its consumer has everything up to there. Raises CursorError if another has the name by now,
        RowError if nobody has."""
        with self._lock:
            known = self.all().get(name)
            if known is None:
                raise RowError(
                    f"there is no consumer {name!r} any more: it was removed, or its bookmark was lost;"
                    " register it again",
                    name=name,
                )
            if known.epoch != epoch:
                raise CursorError(
                    f"consumer {name!r} was registered once more, by somebody else, who has the name now: two"
                    " run under one name; give each its own, or stop one of the two",
                    why="taken",
                    name=name,
                )
            if seq > known.seq or (seq == known.seq and not known.time_ns):
                self._moved[name] = Bookmark(seq, checksum, time.time_ns(), epoch)
            if self._moved and time.monotonic() >= self._due:
                self._flush()

    def drop(self, name: str) -> None:
        """Nobody has the name any more. Writes. Raises DiskError."""
        with self._lock, files.locked(self._path):
            found = self._read()
            self._moved.pop(name, None)
            if found.pop(name, None) is not None:
                self._write(found)

    def flush(self) -> None:
        """Brings what was moved to the file. On a full disk that is done later, or never: then the
        bookmarks are behind."""
        with self._lock:
            if self._moved:
                self._flush()

    def _flush(self) -> None:
        self._due = time.monotonic() + EVERY_S
        with contextlib.suppress(DiskError, OpenError), files.locked(self._path):
            found = self._read()
            found.update({name: one for name, one in self._moved.items() if _goes_on(found, name, one)})
            self._write(found)
            self._moved.clear()

    def _read(self) -> dict[str, Bookmark]:
        found = files.read(self._path / files.BOOKMARKS, File, REMEDY)
        return found.bookmarks if found else {}

    def _write(self, found: dict[str, Bookmark]) -> None:
        files.write(self._path / files.BOOKMARKS, File(files.FORMAT, found), sync=False)


def _goes_on(found: dict[str, Bookmark], name: str, one: Bookmark) -> bool:
    """Whether it is of whoever has the name, and further."""
    known = found.get(name)
    return known is not None and known.epoch == one.epoch and known.seq <= one.seq


DAY_S = 86_400
NAME_BYTES_MAX = 200


class Cap(msgspec.Struct, frozen=True):
    """How much is held for a consumer at most, in records, seconds and bytes; 0: no limit."""

    records: int = 0
    seconds: int = 7 * DAY_S
    bytes: int = 10 << 30

    def over(self, records: int, seconds: float, size: int) -> str:
        """What of it so much is beyond, in a few words; empty: nothing."""
        if self.records and records > self.records:
            return f"more than {self.records:,} records"
        if self.seconds and seconds > self.seconds:
            days = self.seconds / DAY_S
            return f"more than {days:,.3g} day{'s' if days != 1 else ''}"
        return f"more than {self.bytes:,} bytes" if self.bytes and size > self.bytes else ""


class Consumer(msgspec.Struct, frozen=True):
    """A consumer as it is now. `moved_ns`: when its bookmark last moved; 0: never. `lag_s`: for how long the
    oldest record that it lacks has waited, since it registered at the longest. `over`: what of its cap it
    is beyond; then nothing is held."""

    name: str
    position: log_pb2.Cursor
    cap: Cap
    registered_ns: int
    moved_ns: int
    epoch: int
    lag_records: int
    lag_s: float
    held_records: int
    held_bytes: int
    over: str


class Consumers:
    """Those of an open database. Safe to use from many threads."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.bookmarks = Bookmarks(core.directory)
        self._changing = threading.Lock()  # who registers or is removed, from the look to the bookmark

    def register(
        self,
        name: str,
        *,
        after: int | log_pb2.Cursor | None = None,
        cap: Cap | None = None,
        take: bool = True,
        actor: str = "",
        reason: str = "",
    ) -> Consumer:
        """Takes a durable name; whoever had it before has it no more, unless `take` is False: then it is
        only seen to that there is one, with this cap. `after`: where the consumer stands;
        None: where it is known to be, a new one before the first record. `cap`: None leaves it as it is.

        A commit says so in the log, where the consumer is new or has another cap. Raises RowError for a name
        that is none, CursorError for a position that is not of this log, ReadOnlyError.
        """
        check_registration(name, after, cap, actor, reason)
        with self._changing:
            return self._register(name, after, cap, take=take, actor=actor, reason=reason)

    def _register(
        self,
        name: str,
        after: int | log_pb2.Cursor | None,
        cap: Cap | None,
        *,
        take: bool,
        actor: str,
        reason: str,
    ) -> Consumer:
        known = self.registered().get(name)
        position = self._position(name, known, after)
        if known is None or (cap is not None and cap != cap_of(known[1].cap)):
            if self._core.read_only:
                raise ReadOnlyError(
                    f"consumer {name!r} is new, or has another cap, and {self._core.url} was opened for"
                    " reading: register it where the database is open for writing, or at its server"
                    " (`everlog consumers register`)"
                )
            detail = consumers_pb2.Registration(position=position, cap=message_of_cap(cap or Cap()))
            self._notice(REGISTERED, name, detail.SerializeToString(), actor, reason)
        if take or name not in self.bookmarks.all():
            self.bookmarks.take(name, position.seq, position.checksum)
        return self[name]

    def bookmark(self, consumer: Consumer, position: log_pb2.Cursor) -> None:
        """The consumer has everything up to there, durably. Call it as often as you like: it is written once
        a second at most. Raises CursorError if its name was taken by another, or for a position that is not
        of this log; RowError if it was removed."""
        self.move(consumer.name, consumer.epoch, position)

    def move(self, name: str, epoch: int, position: log_pb2.Cursor) -> None:
        """`bookmark`, for the holder of the name in this epoch."""
        position = self._checked(name, position)
        self.bookmarks.move(name, epoch, position.seq, position.checksum)

    def remove(self, name: str, *, actor: str = "", reason: str = "") -> None:
        """Nothing is held for it any more; a commit says so. Raises RowError for a name that nobody has."""
        Metadata(actor, reason).check()
        with self._changing:
            self._needed(name)
            self._notice(REMOVED, name, b"", actor, reason)
            self.bookmarks.drop(name)

    def __getitem__(self, name: str) -> Consumer:
        """One of them. Read-only. Raises RowError."""
        return self._consumer(name, *self._needed(name), self.bookmarks.all().get(name))

    def __iter__(self) -> Iterator[Consumer]:
        """All, by name, as they are now. Read-only."""
        bookmarks = self.bookmarks.all()
        for name, known in sorted(self.registered().items()):
            yield self._consumer(name, *known, bookmarks.get(name))

    def _needed(self, name: str) -> tuple[int, consumers_pb2.Registration]:
        registered = self.registered()
        if arguments.text(name, "name") not in registered:
            names = ", ".join(sorted(registered)) or "none"
            raise RowError(f"there is no consumer {name!r}; there are: {names}", name=name)
        return registered[name]

    def registered(self) -> dict[str, tuple[int, consumers_pb2.Registration]]:
        """When each registered, and what it said, by name. Read-only."""
        found, start = dict[str, tuple[int, consumers_pb2.Registration]](), keys.NOTE_CONSUMER
        view, _ = self._core.tables.snapshot()
        try:
            for note, value in view.items(start, codec.after(start)):
                time_ns: int = keys.CONSUMER.unpack_from(value)[1]
                registration = consumers_pb2.Registration.FromString(value[keys.CONSUMER.size :])
                found[note[len(start) :].decode()] = time_ns, registration
        except (DecodeError, UnicodeDecodeError) as error:
            raise CorruptionError(f"what is noted of consumers cannot be read: {error}") from None
        finally:
            view.close()
        return found

    def _consumer(
        self, name: str, time_ns: int, registration: consumers_pb2.Registration, bookmark: Bookmark | None
    ) -> Consumer:
        log = self._core.log
        if bookmark is None:  # the file was lost, or it is of a backup: it has at least what it had then
            bookmark = Bookmark(registration.position.seq, registration.position.checksum, 0, 0)
        cap, base, lag = cap_of(registration.cap), log.trimmed.base, max(0, log.head - bookmark.seq)
        lag_s = self._waited_s(bookmark.seq + 1, time_ns) if lag else 0.0
        held = min(lag, log.head - base)
        size = self._core.engine.log_bytes() * held // max(1, log.head - base)
        over = cap.over(lag, lag_s, size)
        return Consumer(
            name=name,
            position=log_pb2.Cursor(database=self._core.uuid, seq=bookmark.seq, checksum=bookmark.checksum),
            cap=cap,
            registered_ns=time_ns,
            moved_ns=bookmark.time_ns,
            epoch=bookmark.epoch,
            lag_records=lag,
            lag_s=lag_s,
            held_records=0 if over else held,
            held_bytes=0 if over else size,
            over=over,
        )

    def _waited_s(self, seq: int, since_ns: int) -> float:
        """For how long a record has waited for who registered then, and has all of history to catch up with;
        one that was archived, at least. A clock that jumped ages nothing."""
        log, clock = self._core.log, self._core.clock
        time_ns = log.trimmed.time_ns if seq <= log.trimmed.base else record.time_of(log.get(seq))
        return max(0.0, (clock.read() - max(time_ns, since_ns)) / 1e9 - clock.look())

    def _position(
        self,
        name: str,
        known: tuple[int, consumers_pb2.Registration] | None,
        after: int | log_pb2.Cursor | None,
    ) -> log_pb2.Cursor:
        """Where a consumer that registers stands."""
        if after is None:
            bookmark = self.bookmarks.all().get(name) if known else None
            if bookmark is not None:
                return log_pb2.Cursor(seq=bookmark.seq, checksum=bookmark.checksum)
            return known[1].position if known else log_pb2.Cursor()
        return self._checked(name, cursor_of(after))

    def _checked(self, name: str, cursor: log_pb2.Cursor) -> log_pb2.Cursor:
        """A position of this log, with its checksum. Raises CursorError."""
        log, seq = self._core.log, cursor.seq
        if seq > log.head:
            raise CursorError(
                f"consumer {name!r} is said to have record {seq}, the newest is {log.head}: the database was"
                " restored to an earlier state, or it is another one. Start again from the beginning, under"
                " the same name: a follower into a new target",
                why="ahead",
                seq=seq,
                head=log.head,
            )
        other = cursor.database and cursor.database != self._core.uuid
        checksum = 0 if other else log.checksum_at(seq)
        if other or (cursor.checksum and cursor.checksum != checksum):
            raise CursorError(
                f"consumer {name!r} is said to have record {seq} of another history than"
                f" {self._core.url} has; follow the one that it belongs to, or start again"
                " under the same name, into a new target",
                why="diverged",
                seq=seq,
            )
        return log_pb2.Cursor(seq=seq, checksum=checksum)

    def _notice(self, kind: str, name: str, detail: bytes, actor: str, reason: str) -> None:
        def about(commit: log_pb2.Commit) -> None:
            commit.notice.CopyFrom(log_pb2.Notice(kind=kind, subject=name, detail=detail))

        self._core.commit(self._core.transaction(Metadata(actor, reason)), about)


def check_registration(
    name: str, after: int | log_pb2.Cursor | None, cap: Cap | None, actor: str, reason: str
) -> None:
    """Raises RowError for what is no name, cap, actor or reason, CursorError for what is no position."""
    Metadata(actor, reason).check()
    if after is not None:
        cursor_of(after)
    if cap is not None and not isinstance(cap, Cap):
        raise RowError(f"expected `cap` as a Cap, found {type(cap).__name__} {cap!r}")
    for field in ("records", "seconds", "bytes") if cap is not None else ():
        arguments.counted(getattr(cap, field), f"the {field} of a cap")
    arguments.text(name, "name")
    if not name.isprintable() or name != name.strip() or not 0 < len(name.encode()) <= NAME_BYTES_MAX:
        raise RowError(
            f"expected a name of 1 to {NAME_BYTES_MAX} bytes, without line ends, found {name!r}", name=name
        )


def cursor_of(after: int | log_pb2.Cursor) -> log_pb2.Cursor:
    """A position as it is, or one of a mere seq. Raises CursorError."""
    if isinstance(after, log_pb2.Cursor):
        return after
    return log_pb2.Cursor(seq=arguments.counted(after, "a seq to stand after", error=CursorError))


def cap_of(message: consumers_pb2.Cap) -> Cap:
    """A cap as the log, and the network, have it."""
    return Cap(message.records, message.seconds, message.bytes)


def message_of_cap(cap: Cap) -> consumers_pb2.Cap:
    return consumers_pb2.Cap(records=cap.records, seconds=cap.seconds, bytes=cap.bytes)
