"""Consumers: durable names of followers of this log, the position of each, and the records held for it.

    register ─▶ Notice `consumer.registered` ─▶ a note in the tables        name, time, cap
    bookmark ─▶ the file BOOKMARKS                                          position
        both ─▶ Consumer: its lag, and what archiving leaves in the log for it

A cap limits what is held. Beyond it nothing is held, so that an abandoned consumer cannot fill the disk.
Archived records can still be read, through the archive.

    BOOKMARKS := {"format": 1, "bookmarks": {"<name>": {"seq": 812, "checksum": …, "time_ns": …, "turn": …}}}

    the consumer has it durably ─▶ move ─▶ memory ─▶ the file, once a second at most

Bookmarks are not in the log: otherwise every move would be a commit that everybody follows. `turn` is
the epoch.

Invariants
  (1) a consumer's position is a record of this log, in this history, or it is refused;
  (2) what is held begins after its bookmark;
  (3) a bookmark is never ahead of what its consumer has confirmed; it may be behind;
  (4) the last to register under a name has it, by its epoch; the previous holder is refused;
  (5) within an epoch a bookmark never goes back;
  (6) a name belongs to the identity that first took it, or to the one that was named as its owner; a server
      lets nobody else have it, or change its cap, without the right to remove it;
  (7) an invalid file is reported as an error, and everything it holds stays; rows do not need it;
  (8) a full disk does not stop a known consumer: its new epoch and position stay in memory, and are written
      when there is space. A higher epoch than the written one is of a holder whose epoch was lost.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from google.protobuf.message import DecodeError

from everlog.proto import consumers_pb2, log_pb2
from everlog.store import keys, program_log, record
from everlog.store.core import Core
from everlog.store.errors import (
    CorruptionError,
    CursorError,
    DiskError,
    OpenError,
    ReadOnlyError,
    RowError,
    quantity,
)
from everlog.store.rocks import files
from everlog.store.schema import arguments, codec
from everlog.store.tables.projection import REGISTERED, REMOVED
from everlog.store.tx.transaction import Metadata
from everlog.store.upkeep.allowance import DAY_S, LIMITS
from everlog.store.upkeep.roles import check_name

EVERY_S = 1.0
REMEDY = (
    "Restore a copy of it, or delete it: each consumer then stands where it registered, and registers again"
    " at its next run. Until then nothing is archived; reads and writes of rows continue"
)


class Bookmark(msgspec.Struct, frozen=True):
    """The last record that a consumer has confirmed, when (0: never), and the epoch of the holder."""

    seq: files.Count
    checksum: Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
    time_ns: files.Count
    epoch: files.Count = msgspec.field(name="turn")


class File(msgspec.Struct):
    """The content of the file."""

    format: files.Known
    bookmarks: dict[str, Bookmark]


class Bookmarks:
    """The bookmarks of an open database. Safe to use from many threads, and beside other processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._moved: dict[str, Bookmark] = {}  # not in the file yet
        self._due = 0.0

    def all(self) -> dict[str, Bookmark]:
        """Return the newest known bookmarks by name. Read-only. Raises OpenError if the file is invalid."""
        found = self._read()
        found.update({name: one for name, one in self._moved.copy().items() if _goes_on(found, name, one)})
        return found

    def take(self, name: str, seq: int, checksum: int) -> Bookmark:
        """Give a name to a new holder at a position; the previous holder loses it. Writes, but to memory if
        the disk is full and the name has a bookmark. Raises DiskError."""
        with self._lock, files.locked(self._path):
            found, known = self._read(), self.all().get(name)
            epoch = max(time.time_ns() // 1000, known.epoch + 1 if known else 0)
            found[name] = taken = Bookmark(seq, checksum, known.time_ns if known else 0, epoch)
            try:
                self._write(found)
            except DiskError:
                if known is None:
                    raise
                self._moved[name] = taken
            else:
                self._moved.pop(name, None)
            return taken

    def move(self, name: str, epoch: int, seq: int, checksum: int) -> None:
        """Record that the consumer has everything up to a seq. Writes once a second at most.

        Raises CursorError if the name has another holder, RowError if it has none.
        """
        with self._lock:
            known = self.all().get(name)
            if known is None:
                raise RowError(
                    f"consumer {name!r} no longer exists: it was removed, or its bookmark was lost; register"
                    " it again",
                    name=name,
                )
            if not known.epoch <= epoch <= max(known.epoch, time.time_ns() // 1000):
                raise CursorError(
                    f"consumer {name!r} was registered again by another process, which now holds the name:"
                    " two processes run under one name; give each its own name, or stop one of them",
                    why="taken",
                    name=name,
                )
            if epoch > known.epoch or seq > known.seq or (seq == known.seq and not known.time_ns):
                self._moved[name] = Bookmark(seq, checksum, time.time_ns(), epoch)
            if self._moved and time.monotonic() >= self._due:
                self._flush()

    def drop(self, name: str) -> None:
        """Remove a name's bookmark. Writes. Raises DiskError."""
        with self._lock, files.locked(self._path):
            found = self._read()
            self._moved.pop(name, None)
            if found.pop(name, None) is not None:
                self._write(found)

    def flush(self) -> None:
        """Write moved bookmarks to the file. On a full disk this happens later, or never: bookmarks are
        then behind."""
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
    """Return whether `one` belongs to the name's holder, or a later one, and is not behind the known one."""
    known = found.get(name)
    return known is not None and (known.epoch, known.seq) <= (one.epoch, one.seq)


NAME_BYTES_MAX = 200


class Cap(msgspec.Struct, frozen=True):
    """The maximum that is held for a consumer, in records, seconds and bytes; 0: no limit."""

    records: int = 0
    seconds: int = LIMITS["cap_seconds"].default
    bytes: int = LIMITS["cap_bytes"].default

    def over(self, records: int, seconds: float, size: int) -> str:
        """Return which limit is exceeded, in a few words; empty: none."""
        if self.records and records > self.records:
            return f"more than {quantity(self.records, 'record')}"
        if self.seconds and seconds > self.seconds:
            days = self.seconds / DAY_S
            return f"more than {days:,.3g} day{'s' if days != 1 else ''}"
        return f"more than {quantity(self.bytes, 'byte')}" if self.bytes and size > self.bytes else ""


class Consumer(msgspec.Struct, frozen=True):
    """A consumer's current state.

    `moved_ns`: when its bookmark last moved; 0: never. `lag_s`: how long the oldest record that it lacks
    has waited, at most since it registered. `over`: which limit of its cap it exceeds; nothing is held
    then. `owner`: the identity that it belongs to; empty: to nobody.
    """

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
    owner: str = ""


class Registering(NamedTuple):
    """A registration that is about to be made: `was` is the known one of the name (None: the name is new),
    `owned` the number of other names of the new owner."""

    name: str
    was: consumers_pb2.Registration | None
    new: consumers_pb2.Registration
    owned: int


class Consumers:
    """The consumers of an open database. Safe to use from many threads."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.bookmarks = Bookmarks(core.directory)
        self._changing = threading.Lock()  # held from the check to the bookmark

    def register(
        self,
        name: str,
        *,
        after: int | log_pb2.Cursor | None = None,
        cap: Cap | None = None,
        take: bool = True,
        owner: str = "",
        actor: str = "",
        reason: str = "",
        permit: Callable[[Registering], None] | None = None,
    ) -> Consumer:
        """Register a consumer under a durable name, and return it. Writes.

        `take`: become the holder of the name, which the previous holder loses; False: only make sure that
        the name exists, with this cap. `after`: the seq or cursor of the consumer; None: its known
        position, or before the first record if it is new. `cap`: None keeps the current one. `owner`: the
        identity that it belongs to from now on; empty: unchanged. `permit` is called before anything changes,
        and may raise.

        Commits a Notice if the consumer is new, or if its cap or owner changes. Raises RowError for an
        invalid name, CursorError for a position that is not in this log, ReadOnlyError.
        """
        check_registration(name, after, cap, owner, Metadata(actor, reason))
        with self._changing:
            registered = self.registered()
            known = registered.get(name)
            was = known[1] if known else consumers_pb2.Registration(cap=message_of_cap(Cap()))
            new = consumers_pb2.Registration(
                position=self._position(name, known, after),
                cap=was.cap if cap is None else message_of_cap(cap),
                owner=owner or was.owner,
            )
            changed = known is None or (new.cap, new.owner) != (was.cap, was.owner)
            if permit is not None and (take or changed):
                owned = sum(one.owner == new.owner for other, (_, one) in registered.items() if other != name)
                permit(Registering(name, was if known else None, new, owned))
            if changed:
                self._check_writable(name)
                self._notice(REGISTERED, name, new.SerializeToString(), actor, reason)
            if take or name not in self.bookmarks.all():
                self.bookmarks.take(name, new.position.seq, new.position.checksum)
            return self[name]

    def _check_writable(self, name: str) -> None:
        if self._core.read_only:
            raise ReadOnlyError(
                f"consumer {name!r} is new or has another cap, but {self._core.url} is open for reading:"
                " register it where the database is open for writing, or at its server"
                " (`everlog consumers register`)"
            )

    def bookmark(self, consumer: Consumer, position: log_pb2.Cursor) -> None:
        """Record that the consumer durably has everything up to a position. Call it as often as needed: it
        writes once a second at most.

        Raises CursorError if another process took its name, or for a position that is not in this log;
        RowError if the consumer was removed.
        """
        self.move(consumer.name, consumer.epoch, position)

    def move(self, name: str, epoch: int, position: log_pb2.Cursor) -> None:
        """`bookmark`, for the holder of the name in this epoch."""
        position = self._checked(name, position)
        self.bookmarks.move(name, epoch, position.seq, position.checksum)

    def remove(self, name: str, *, actor: str = "", reason: str = "") -> None:
        """Remove a consumer: nothing is held for it any more. Commits a Notice. Raises RowError for an
        unknown name."""
        Metadata(actor, reason).check()
        with self._changing:
            self._needed(name)
            self._notice(REMOVED, name, b"", actor, reason)
            self.bookmarks.drop(name)

    def __getitem__(self, name: str) -> Consumer:
        """Return one consumer. Read-only. Raises RowError."""
        return self._consumer(name, *self._needed(name), self.bookmarks.all().get(name))

    def __iter__(self) -> Iterator[Consumer]:
        """Yield all consumers, by name. Read-only."""
        bookmarks = self.bookmarks.all()
        for name, known in sorted(self.registered().items()):
            yield self._consumer(name, *known, bookmarks.get(name))

    def _needed(self, name: str) -> tuple[int, consumers_pb2.Registration]:
        registered = self.registered()
        if arguments.text(name, "name") not in registered:
            names = ", ".join(sorted(registered)) or "none"
            raise RowError(f"there is no consumer {name!r}; the consumers are: {names}", name=name)
        return registered[name]

    def owner_of(self, name: str) -> str:
        """Return the identity that a consumer belongs to; empty: to nobody, or it does not exist.
        Read-only."""
        value = self._core.tables.get(keys.NOTE_CONSUMER + name.encode())
        if value is None:
            return ""
        owner: str = consumers_pb2.Registration.FromString(value[keys.CONSUMER.size :]).owner
        return owner

    def registered(self) -> dict[str, tuple[int, consumers_pb2.Registration]]:
        """Return the time of each registration, and the registration, by name. Read-only."""
        found, start = dict[str, tuple[int, consumers_pb2.Registration]](), keys.NOTE_CONSUMER
        view, _ = self._core.tables.snapshot()
        try:
            for note, value in view.items(start, codec.after(start)):
                time_ns: int = keys.CONSUMER.unpack_from(value)[1]
                registration = consumers_pb2.Registration.FromString(value[keys.CONSUMER.size :])
                found[note[len(start) :].decode()] = time_ns, registration
        except (DecodeError, UnicodeDecodeError) as error:
            raise CorruptionError(f"the registrations of consumers cannot be read: {error}") from None
        finally:
            view.close()
        return found

    def _consumer(
        self, name: str, time_ns: int, registration: consumers_pb2.Registration, bookmark: Bookmark | None
    ) -> Consumer:
        log = self._core.log
        if bookmark is None:  # the file is lost, or of a backup: it has at least its registered position
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
            owner=registration.owner,
        )

    def _waited_s(self, seq: int, since_ns: int) -> float:
        """Return how many seconds a record has waited for a consumer that registered at `since_ns`.

        For an archived record it is a lower bound. A clock that jumped does not count.
        """
        log, clock = self._core.log, self._core.clock
        time_ns = log.trimmed.time_ns if seq <= log.trimmed.base else record.time_of(log.get(seq))
        return max(0.0, (clock.read() - max(time_ns, since_ns)) / 1e9 - clock.look())

    def _position(
        self,
        name: str,
        known: tuple[int, consumers_pb2.Registration] | None,
        after: int | log_pb2.Cursor | None,
    ) -> log_pb2.Cursor:
        """Return the position of a consumer that registers."""
        if after is None:
            bookmark = self.bookmarks.all().get(name) if known else None
            if bookmark is not None:
                return log_pb2.Cursor(seq=bookmark.seq, checksum=bookmark.checksum)
            return known[1].position if known else log_pb2.Cursor()
        return self._checked(name, cursor_of(after))

    def _checked(self, name: str, cursor: log_pb2.Cursor) -> log_pb2.Cursor:
        """Return a position of this log with its checksum. Raises CursorError."""
        log, seq = self._core.log, cursor.seq
        if seq > log.head:
            raise CursorError(
                f"consumer {name!r} has record {seq}, but the newest record is {log.head}: the database was"
                " restored to an earlier state, or is another one. Start again from the beginning under the"
                " same name; a follower, into a new target",
                why="ahead",
                seq=seq,
                head=log.head,
            )
        other = cursor.database and cursor.database != self._core.uuid
        checksum = 0 if other else log.checksum_at(seq)
        if other or (cursor.checksum and cursor.checksum != checksum):
            raise CursorError(
                f"consumer {name!r} has record {seq} of another history than"
                f" {self._core.url}; follow the database that it belongs to, or start again"
                " under the same name, into a new target",
                why="diverged",
                seq=seq,
            )
        return log_pb2.Cursor(seq=seq, checksum=checksum)

    def _notice(self, kind: str, name: str, detail: bytes, actor: str, reason: str) -> None:
        def about(commit: log_pb2.Commit) -> None:
            commit.notice.CopyFrom(log_pb2.Notice(kind=kind, subject=name, detail=detail))

        seq = self._core.commit(self._core.transaction(Metadata(actor, reason)), about).seq
        extra = program_log.about(kind, database=str(self._core.path), identity=actor, consumer=name, seq=seq)
        program_log.quiet.info(
            "consumer %s %s", name, "is registered" if kind == REGISTERED else "is removed", extra=extra
        )


def check_registration(
    name: str, after: int | log_pb2.Cursor | None, cap: Cap | None, owner: str, metadata: Metadata
) -> None:
    """Raise RowError for an invalid name, cap, owner or metadata, CursorError for an invalid position."""
    metadata.check()
    if after is not None:
        cursor_of(after)
    if cap is not None and not isinstance(cap, Cap):
        raise RowError(f"expected `cap` as a Cap, found {type(cap).__name__} {cap!r}")
    for field in ("records", "seconds", "bytes") if cap is not None else ():
        arguments.counted(getattr(cap, field), f"the {field} of a cap")
    if owner != "":
        check_name(owner, "the owner of a consumer")
    arguments.text(name, "name")
    if not name.isprintable() or name != name.strip() or not 0 < len(name.encode()) <= NAME_BYTES_MAX:
        raise RowError(
            f"expected a name of 1 to {NAME_BYTES_MAX} bytes, without line ends, found {name!r}", name=name
        )


def cursor_of(after: int | log_pb2.Cursor) -> log_pb2.Cursor:
    """Return a position as a cursor. Raises CursorError."""
    if isinstance(after, log_pb2.Cursor):
        return after
    return log_pb2.Cursor(seq=arguments.counted(after, "a seq to stand after", error=CursorError))


def cap_of(message: consumers_pb2.Cap) -> Cap:
    """Decode a cap from a message."""
    return Cap(message.records, message.seconds, message.bytes)


def message_of_cap(cap: Cap) -> consumers_pb2.Cap:
    """Encode a cap as a message."""
    return consumers_pb2.Cap(records=cap.records, seconds=cap.seconds, bytes=cap.bytes)
