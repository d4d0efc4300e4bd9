"""Past: a database as it was after any record of its log.

    at(seq=812) ─────────────┐
    at(time="2026-01-05") ─▶ seq, by bisection ─▶ Moment: a Snapshot of that seq
                                                    its schema  (history/schemas.py)
                                                    its rows    (history/view.py, history/version_index.py)

Records that are made while the log is ahead of the clock have the time of the newest record before them,
and keep the clock's reading. They count by that reading if the log says that the clock was correct (see
`Admin.correct_clock`), or if the log is still ahead of the clock. `get --at`, `log --since`, `restore --at`
and `rebuild --into --at` all use `Times`, for the log of a database or of a backup.

The version index catches up on demand, as far as requested: the first call reads the log once, later
calls read what was added. Nothing else depends on how far back a moment is.

Invariants
  (1) a moment is the same at every call, as long as the log that it needs is held;
  (2) no user code runs, and nothing is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from everlog.store import keys, record
from everlog.store.clock import BEHIND_NS
from everlog.store.core import Core
from everlog.store.errors import CursorError, ReadOnlyError, RowError
from everlog.store.history.diff import Difference, diff
from everlog.store.history.query import Entry, LogFilter, entries
from everlog.store.history.row_history import History, Version
from everlog.store.history.schemas import PastSchemas, TableLineage
from everlog.store.history.version_index import Versions
from everlog.store.history.view import PastSource, PastView, Views
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema import arguments, codec
from everlog.store.schema.arguments import Position, Time, nanoseconds, time_text
from everlog.store.schema.schema import Binding
from everlog.store.schema.table import Table
from everlog.store.tables.hashing import TableHash, hashes
from everlog.store.tx.reader import Snapshot

M = TypeVar("M", bound=Message)


ONE_BY_ONE = 64


POSITIONS_MAX = 1000


class Positions(NamedTuple):
    """Positions of a log at some times: of each the seq of the newest record at or before it, one less than
    `oldest` if there is none. `oldest` and `head` are the ends of the log, with their times."""

    seqs: list[int]
    oldest: int
    oldest_ns: int
    head: int
    head_ns: int


def check_times(times: Iterable[Time]) -> list[int]:
    """Return the times of a request for positions, in nanoseconds. Raises RowError for an invalid one, and
    for more than POSITIONS_MAX."""
    found = [nanoseconds(one) for one in arguments.several(times, "times")]
    if len(found) > POSITIONS_MAX:
        raise RowError(f"expected at most {POSITIONS_MAX:,} times, found {len(found):,}")
    return found


class Times:
    """The times of the records `oldest` to `newest` of one log.

    `get` returns one framed record. `corrections` returns the seqs of the Notices after a seq that correct
    the clock; it may return earlier ones as well. `now_ns`: what the clock reads now.
    """

    def __init__(
        self,
        get: Callable[[int], bytes],
        oldest: int,
        newest: int,
        corrections: Callable[[int], Iterable[int]],
        now_ns: int,
    ) -> None:
        self._get = get
        self._oldest = oldest
        self._newest = newest
        self._corrections = corrections
        self._now_ns = now_ns
        self._known = dict[int, int]()  # searches for several times read many records in common

    def before(self, time_ns: int) -> int:
        """Return the seq of the newest record before a time; one less than the oldest if there is none."""
        found = self._last(lambda seq: self.time_of(seq) < time_ns, self._oldest - 1)
        if found < self._newest:
            for run_ns in self._ahead(found):
                if run_ns < time_ns:
                    break
                if (read := self._read_before(time_ns, run_ns, found)) > found:
                    return read
        return found

    def time_of(self, seq: int) -> int:
        """Return the time of a record, in nanoseconds since the Unix epoch."""
        known = self._known.get(seq)
        if known is None:
            known = self._known[seq] = record.time_of(self._get(seq))
        return known

    def _last(self, holds: Callable[[int], bool], low: int) -> int:
        """Return the last record after `low` that meets a monotonic condition; `low` if none does."""
        high = self._newest
        while low < high:
            middle = (low + high + 1) // 2
            if holds(middle):
                low = middle
            else:
                high = middle - 1
        return low

    def _ahead(self, found: int) -> list[int]:
        """Return the times at which the log stood still while the clock was behind it and is known to be
        right; newest first."""
        seqs, newest = self._corrections(found), self.time_of(self._newest)
        runs = {self.time_of(seq) for seq in seqs if seq >= self._oldest}
        if newest - self._now_ns > BEHIND_NS:
            runs.add(newest)
        return sorted(runs, reverse=True)

    def _read_before(self, time_ns: int, run_ns: int, found: int) -> int:
        """Return the last record at `run_ns` with a clock reading before a time; 0: there is none.

        `found`: the last record with an earlier time. Readings below its time are of another clock. The
        newest records are checked one by one, earlier ones in steps that double: of many readings, some may
        be of clocks that were briefly wrong.
        """
        start = self._last(lambda seq: self.time_of(seq) < run_ns, found) + 1
        end = self._last(lambda seq: self.time_of(seq) <= run_ns, start - 1)
        least = self.time_of(found) if found >= self._oldest else 0

        def holds(seq: int) -> bool:
            reading, back = self.reading_of(seq) or run_ns, max(start, seq - ONE_BY_ONE)
            while reading < least and seq > back:  # a clock that was behind: use the record before
                seq -= 1
                reading = self.reading_of(seq) or run_ns
            return least <= reading < time_ns

        while start < end and not self.reading_of(start):
            start += 1  # the commits that moved the log ahead, usually one
        high, step = end + 1, 1
        low = end
        while low > start and not holds(low):
            step = step * 2 if end - low > ONE_BY_ONE else 1
            high, low = low, max(start, low - step)
        if not holds(low):
            return 0
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if holds(middle) else (low, middle)
        return low

    def reading_of(self, seq: int) -> int:
        """Return what the clock read at a record that is ahead of it; else 0."""
        reading_ns: int = record.decode(self._get(seq), seq).reading_ns
        return reading_ns


class Moment(Snapshot):
    """A database as it was after the record at `seq`. Need not be closed.

    A table may be named by the constants of that time, or by later ones if its rows were not rewritten
    since; an index by those that the table had then. A scan by an index reads the whole table: see
    history/view.py.
    """

    def __init__(self, past: Past, seq: int) -> None:
        self._past = past
        self._view = past.views.at(seq)
        super().__init__(PastSource(self._view), seq, self._view.schema, self._view.close)

    @property
    def schema(self) -> Any:
        """The schema in force at `seq`."""
        return self._of

    @property
    def time_ns(self) -> int:
        """The time of the record at `seq`, in nanoseconds since the Unix epoch."""
        return record.time_of(self._past.records.get(self.seq))

    @property
    def view(self) -> PastView:
        """The tables, by key."""
        return self._view

    def hashes(self, progress: OnProgress | None = None, *, sealed: bool = False) -> dict[str, TableHash]:
        """Return the number of rows and the content hash of every table. Read-only. `sealed` as in
        `Admin.hashes`."""
        report = None if progress is None else lambda done: progress(Progress("hash", done))
        return hashes(self._view, self._of, report, sealed=sealed)

    def _bind(self, table: Table[M, Any]) -> Binding:
        return self._of.bound.get(arguments.table(table)) or self._past.schemas.bind(table, self.seq)


class Past:
    """The history of one open database. Safe to use from many threads."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.records, self.tables = core.log, core.tables
        self.versions = Versions(core.engine, core.log)
        self.schemas = PastSchemas(core.log, core.tables)
        self.views = Views(core.log, self.versions, self.schemas)

    def at(
        self, *, seq: int | None = None, time: Time | None = None, progress: OnProgress | None = None
    ) -> Moment:
        """See `Database.at`."""
        self._core.check_open()
        at = self.position(seq=seq, time=time)
        self.catch_up(at, progress)
        return Moment(self, at)

    def history(
        self, table: Table[M, Any] | str, key: Any, *, newest_first: bool = True, limit: int | None = None
    ) -> Iterator[Version[M]]:
        """See `Database.history`."""
        self._core.check_open()
        lineage = self.schemas.lineage(table, self.tables.applied)
        model = None if isinstance(table, str) else table.model
        history = self.history_of(lineage, lineage.info.encode_key(key), model)
        return (found.version for found in history.versions(newest_first=newest_first, limit=limit))

    def history_of(self, table: TableLineage, key: bytes, model: type[Message] | None = None) -> History:
        """Return the history of a row, by its encoded key; its rows have `model`, else the models in the
        log."""
        return History(self.records, self.tables, self.versions, table, key, model)

    def seqs_of(self, table: TableLineage, key: bytes, after: int) -> list[int]:
        """Return the records after `after` that wrote a row, oldest first, by its encoded key."""
        seqs = (place.seq for place, _ in self.history_of(table, key).places())
        return list(takewhile(lambda seq: seq > after, seqs))[::-1]

    def log(
        self,
        *,
        actor: str | None = None,
        table: Table[Any, Any] | str | None = None,
        key: Any = None,
        correlation_id: str | None = None,
        kind: str | None = None,
        after: int = 0,
        until: int | None = None,
        since: Time | None = None,
        before: Time | None = None,
        limit: int | None = None,
    ) -> Iterator[Entry]:
        """Yield the commits that meet all conditions, oldest first. Read-only.

        `actor`: by this actor. `table`: with a change to this table; a name without a key matches every
        table that ever had it. `key`: with a change to this row of `table`. `correlation_id`: with this id.
        `kind`: commit, created, base, migration, load or notice; migrations are found without reading the
        log, and include archived ones. `after` (exclusive) and `until` (inclusive) are seqs; `since`
        (inclusive) and `before` (exclusive) are times, as in `at`. `limit`: the maximum number of entries.

            for entry in db.past.log(table=AIRPORTS, since="2026-01-05"):
                print(entry.seq, entry.actor, entry.reason)

        Raises RowError for invalid conditions, SchemaError for a table that never existed.
        """
        self._core.check_open()
        wanted = LogFilter(actor, table, key, correlation_id, kind, after, until, since, before)
        return entries(self, wanted, limit)

    def diff(self, table: Table[M, Any] | str, start: Position, end: Position) -> Iterator[Difference[M]]:
        """Yield the rows of a table that differ between two positions, each a seq (int) or a time, in key
        order. Read-only.

        Each difference says whether the row was added, changed (which fields) or deleted. If a migration
        rewrote the rows in between, rows that the table's constants cannot read have the model of their
        time. Raises CursorError as `at` does, and SchemaError if the constants can read neither side, or if
        the primary key changed.
        """
        self._core.check_open()
        first, last = (
            self.position(seq=one) if isinstance(one, int) else self.position(time=one)
            for one in (start, end)
        )
        lineage = self.schemas.lineage(table, self.tables.applied)
        return self.diff_of(lineage, first, last, None if isinstance(table, str) else table)

    def diff_of(
        self, lineage: TableLineage, start: int, end: int, table: Table[Any, Any] | None = None
    ) -> Iterator[Difference[Any]]:
        """`diff` between two seqs; without `table` the rows have the models of their time."""
        self.catch_up(end)
        return diff(self.views, lineage, start, end, table)

    def before(self, time: Time) -> int:
        """Return the seq of the newest record before a time; one less than the oldest if there is none."""
        return self._times().before(nanoseconds(time))

    def positions(self, times: Iterable[Time]) -> Positions:
        """Return the positions of the log at these times, at most POSITIONS_MAX, each as in `at`. Read-only.

        Raises RowError for an invalid time, and for too many.
        """
        self._core.check_open()
        log, wanted, corrections = self.records, check_times(times), self._corrections()
        oldest, newest = log.oldest, self.tables.applied
        found = Times(log.get, oldest, newest, lambda _: corrections, self._core.clock.read())
        seqs = [found.before(one + 1) for one in wanted]
        return Positions(seqs, oldest, found.time_of(oldest), newest, found.time_of(newest))

    def _times(self) -> Times:
        log, newest = self.records, self.tables.applied
        return Times(log.get, log.oldest, newest, lambda _: self._corrections(), self._core.clock.read())

    def _corrections(self) -> list[int]:
        """Return the Notices that correct the clock, oldest first."""
        view, _ = self.tables.snapshot()
        try:
            notes = view.items(keys.NOTE_CLOCK, codec.after(keys.NOTE_CLOCK))
            return [keys.SEQ.unpack(note[keys.PREFIX.size :])[0] for note, _ in notes]
        finally:
            view.close()

    def corrected(self) -> int:
        """Return the seq of the Notice that corrects the newest record's time; 0 if there is none, or if
        that record's clock was ahead again. Read-only."""
        seq, times = self.tables.applied, self._times()
        if times.reading_of(seq) > self._core.clock.read() + BEHIND_NS:
            return 0
        newest = times.time_of(seq)
        return next((seq for seq in self._corrections()[::-1] if times.time_of(seq) == newest), 0)

    def position(self, *, seq: int | None = None, time: Time | None = None) -> int:
        """Return the seq at a seq or a time. Read-only. Raises CursorError if the log does not have it,
        RowError for an invalid time."""
        if (seq is None) == (time is None):
            raise RowError("expected either a seq or a time, found both or none")
        if time is not None:
            return self._at_time(nanoseconds(time))
        assert seq is not None
        self._check(arguments.whole(seq, "a seq"))
        return seq

    def _check(self, seq: int) -> None:
        oldest, newest = self.records.oldest, self.tables.applied
        if seq < 1 or seq > newest:
            where = "before the first record" if seq < 1 else "in the future"
            raise CursorError(f"there is no record {seq}: it is {where}; the log ends at {newest}")
        if seq < oldest:
            raise CursorError(
                f"the log starts at {oldest}: record {seq} was removed; it is in the archive",
                oldest=oldest,
            )

    def _at_time(self, time_ns: int) -> int:
        """Return the newest record at or before a time."""
        log = self.records
        low = log.oldest
        if time_ns > max(self._core.clock.read(), self._times().time_of(self.tables.applied)):
            raise CursorError(f"{time_text(time_ns)} is in the future; expected a time until now")
        found = self.before(time_ns + 1)
        if found < low:
            begins = "begins" if low == 1 else "was cut, and begins now"
            raise CursorError(
                f"there is nothing at {time_text(time_ns)}: the log {begins} with record {low}, at"
                f" {time_text(record.time_of(log.get(low)))}",
                oldest=low,
            )
        return found

    def catch_up(self, upto: int | None = None, progress: OnProgress | None = None) -> None:
        """Index the versions of all rows up to a record; None: up to the newest. Writes the index only.

        If interrupted, it resumes there the next time.
        """
        self.versions.catch_up(self.tables.applied if upto is None else upto, progress)

    def forget(self) -> None:
        """Delete the version index; it is built again on demand. Writes. Raises ReadOnlyError."""
        if self._core.read_only:
            raise ReadOnlyError(
                "the database is open for reading; open it without read_only to delete its index"
            )
        self.versions.forget()

    def refresh(self) -> None:
        """As a reader beside a writer: see what the writer has written since."""
        self.versions.refresh()
        self.schemas.refresh()

    def keep(self) -> None:
        """In a forked child: keep RocksDB's objects alive, and refuse their use."""
        self.views.forked()
        self.versions.keep()

    def close(self) -> None:
        """Close all views; later reads from them raise ClosedError."""
        self.views.close()
        self.versions.close()
