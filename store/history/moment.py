"""Past: a database as it was after any record of its log.

    at(seq=812) ─────────────┐
    at(time="2026-01-05") ─▶ seq, by bisection ─▶ Moment: a Snapshot of then
                                                    schema of then (history/schemas.py)
                                                    rows of then   (history/view.py, history/version_index.py)

Where versions lie is projected when somebody first asks, and then as far as is asked: the first
question reads the log once, every later one what came since. Nothing else depends on how far back a
moment is.

Invariants
  (1) a moment is the same whenever it is asked for, as long as the log that it needs is held;
  (2) no code of a user runs, and nothing is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any, TypeVar

from google.protobuf.message import Message

from everlog.store import keys, record
from everlog.store.clock import BEHIND_NS
from everlog.store.core import Core
from everlog.store.errors import CursorError, ReadOnlyError, RowError
from everlog.store.history.diff import Difference, diff
from everlog.store.history.query import Entry, LogFilter, entries
from everlog.store.history.row_history import History, Version
from everlog.store.history.schemas import Meant, PastSchemas
from everlog.store.history.timestamps import Position, Time, nanoseconds, shown
from everlog.store.history.version_index import Versions
from everlog.store.history.view import PastSource, PastView, Views
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema import arguments, codec
from everlog.store.schema.schema import Binding
from everlog.store.schema.table import Table
from everlog.store.tables.hashing import TableHash, hashes
from everlog.store.tx.reader import Snapshot

M = TypeVar("M", bound=Message)

ONE_BY_ONE = 64


class Moment(Snapshot):
    """A database as it was after the record at `seq`. Needs not be closed.

    A table may be named by the constants of that time, or by later ones, as long as its rows were not
    rewritten since; an index by those that the table had then. A scan by an index reads the whole
    table of then: see history/view.py.
    """

    def __init__(self, past: Past, seq: int) -> None:
        self._past = past
        self._view = past.views.at(seq)
        super().__init__(PastSource(self._view), seq, self._view.schema, self._view.close)

    @property
    def schema(self) -> Any:
        """The schema that was in force."""
        return self._of

    @property
    def time_ns(self) -> int:
        """When the record at `seq` was committed."""
        return record.time_of(self._past.records.get(self.seq))

    @property
    def view(self) -> PastView:
        """The tables as they were, key by key."""
        return self._view

    def hashes(self, progress: OnProgress | None = None, *, sealed: bool = False) -> dict[str, TableHash]:
        """Rows and content hash of every table; `sealed` as in `Database.hashes`. Read-only."""
        tell = None if progress is None else lambda done: progress(Progress("hash", done))
        return hashes(self._view, self._of, tell, sealed=sealed)

    def _bind(self, table: Table[M, Any]) -> Binding:
        return self._of.bound.get(arguments.table(table)) or self._past.schemas.bind(table, self.seq)


class Past:
    """What was, in one open database. Safe to use from many threads."""

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
        meant = self.schemas.meant(table, self.tables.applied)
        model = None if isinstance(table, str) else table.model
        history = self.history_of(meant, meant.info.encode_key(key), model)
        return (found.version for found in history.versions(newest_first=newest_first, limit=limit))

    def history_of(self, table: Meant, key: bytes, model: type[Message] | None = None) -> History:
        """Return the history of a row, by the encoded key; its rows are of `model`, else of the log's own."""
        return History(self.records, self.tables, self.versions, table, key, model)

    def seqs_of(self, table: Meant, key: bytes, after: int) -> list[int]:
        """The records after one that wrote a row, oldest first, by the encoded key."""
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
        """The commits that fit all of what is given, oldest first: by `actor`, to a `table` or to the row
        of it with a `key`, of a `correlation_id`, of a `kind` (commit, created, base, migration, load,
        notice), after a seq, until one (included), since a time (included), before one. A name alone, without
        a key, is each table that ever had it.

        Read-only. Raises RowError for a question that is none, SchemaError for a table that there never
        was.
        """
        self._core.check_open()
        asked = LogFilter(actor, table, key, correlation_id, kind, after, until, since, before)
        return entries(self, asked, limit)

    def diff(self, table: Table[M, Any] | str, start: Position, end: Position) -> Iterator[Difference[M]]:
        """The rows of a table that differ between two moments, each a seq (int) or a time, in key order:
        added, changed (which fields), deleted. Where a migration rewrote the rows in between, those that the
        table's constants do not read are of the model of then. Raises CursorError as `at`, and SchemaError
        where they read neither, or the rows got another primary key."""
        self._core.check_open()
        first, last = (
            self.position(seq=one) if isinstance(one, int) else self.position(time=one)
            for one in (start, end)
        )
        meant = self.schemas.meant(table, self.tables.applied)
        return self.diff_of(meant, first, last, None if isinstance(table, str) else table)

    def diff_of(
        self, meant: Meant, start: int, end: int, table: Table[Any, Any] | None = None
    ) -> Iterator[Difference[Any]]:
        """The same, between two seqs; without `table` the rows are of the models of then."""
        self.catch_up(end)
        return diff(self.views, meant, start, end, table)

    def before(self, time: Time) -> int:
        """Return the seq of the newest record before a time; one less than the oldest if there is none.

        Records made while the log was ahead of the clock count by the clock's reading, if the log says that
        the clock was right, or is still ahead of it.
        """
        time_ns = nanoseconds(time)
        found = self._last(lambda seq: self._time(seq) < time_ns, self.records.oldest - 1)
        if found < self.tables.applied:
            for run_ns in self._ahead():
                if run_ns < time_ns:
                    break
                if (read := self._read_before(time_ns, run_ns, found)) > found:
                    return read
        return found

    def _time(self, seq: int) -> int:
        return record.time_of(self.records.get(seq))

    def _last(self, holds: Callable[[int], bool], low: int) -> int:
        """Return the last record after `low` that meets a monotonic condition; `low` if none does."""
        high = self.tables.applied
        while low < high:
            middle = (low + high + 1) // 2
            if holds(middle):
                low = middle
            else:
                high = middle - 1
        return low

    def _ahead(self) -> list[int]:
        """The times at which the log stood still while the clock was behind it, and is believed; newest
        first."""
        seqs, newest = self._corrections(), self._time(self.tables.applied)
        found = {self._time(seq) for seq in seqs if seq >= self.records.oldest}
        if newest - self._core.clock.read() > BEHIND_NS:
            found.add(newest)
        return sorted(found, reverse=True)

    def _read_before(self, time_ns: int, run_ns: int, found: int) -> int:
        """The last record of those at `run_ns` whose clock read less than a time; 0: there is none.

        `found`: the last record of an earlier time. What was read before it is of another clock. It looks
        at the newest one by one, and further back in steps that double: among many readings, some may be
        of clocks that were wrong for a moment.
        """
        start = self._last(lambda seq: self._time(seq) < run_ns, found) + 1
        end = self._last(lambda seq: self._time(seq) <= run_ns, start - 1)
        least = self._time(found) if found >= self.records.oldest else 0

        def holds(seq: int) -> bool:
            reading, back = self._reading(seq) or run_ns, max(start, seq - ONE_BY_ONE)
            while reading < least and seq > back:  # of a clock that was behind: it came after the one before
                seq -= 1
                reading = self._reading(seq) or run_ns
            return least <= reading < time_ns

        while start < end and not self._reading(start):
            start += 1  # the commits that moved the log ahead, one as a rule
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

    def _reading(self, seq: int) -> int:
        reading_ns: int = record.decode(self.records.get(seq), seq).reading_ns
        return reading_ns

    def _corrections(self) -> list[int]:
        """Return the Notices that correct the clock, oldest first."""
        view, _ = self.tables.snapshot()
        try:
            notes = view.items(keys.NOTE_CLOCK, codec.after(keys.NOTE_CLOCK))
            return [keys.SEQ.unpack(note[keys.PREFIX.size :])[0] for note, _ in notes]
        finally:
            view.close()

    def corrected(self) -> int:
        """Return the seq of the Notice that corrects the newest record's time; 0 without one, and where that
        record is of a clock that was ahead once more. Read-only."""
        seq = self.tables.applied
        if self._reading(seq) > self._core.clock.read() + BEHIND_NS:
            return 0
        newest = self._time(seq)
        return next((seq for seq in self._corrections()[::-1] if self._time(seq) == newest), 0)

    def position(self, *, seq: int | None = None, time: Time | None = None) -> int:
        """The seq that is meant by a seq or a time. Read-only. Raises CursorError where the log has
        none, RowError for a time that is none."""
        if (seq is None) == (time is None):
            raise RowError("expected either a seq or a time to read at, found both or none")
        if time is not None:
            return self._at_time(nanoseconds(time))
        assert seq is not None
        self._check(arguments.whole(seq, "a seq"))
        return seq

    def _check(self, seq: int) -> None:
        oldest, newest = self.records.oldest, self.tables.applied
        if seq < 1 or seq > newest:
            where = "before the first record" if seq < 1 else "not there yet"
            raise CursorError(f"there is no record {seq} to read at: it is {where}; the log ends at {newest}")
        if seq < oldest:
            raise CursorError(
                f"the log starts at {oldest}, what was at record {seq} was removed; it is in the archive",
                oldest=oldest,
            )

    def _at_time(self, time_ns: int) -> int:
        """The newest record at or before a time."""
        log = self.records
        low = log.oldest
        if time_ns > max(self._core.clock.read(), self._time(self.tables.applied)):
            raise CursorError(
                f"{shown(time_ns)} is in the future: what the database will be then is not known"
            )
        found = self.before(time_ns + 1)
        if found < low:
            begins = "begins" if low == 1 else "was cut, and begins now"
            raise CursorError(
                f"there is nothing at {shown(time_ns)}: the log {begins} with record {low}, at"
                f" {shown(record.time_of(log.get(low)))}",
                oldest=low,
            )
        return found

    def catch_up(self, upto: int | None = None, progress: OnProgress | None = None) -> None:
        """Projects the versions of all rows up to a record; None: to the newest. Writes the projection
        and nothing else. Interrupted, it goes on there the next time."""
        self.versions.catch_up(self.tables.applied if upto is None else upto, progress)

    def forget(self) -> None:
        """Throws the projection away; it is made anew when it is next asked. Writes. Raises ReadOnlyError."""
        if self._core.read_only:
            raise ReadOnlyError("this was opened for reading; open it without read_only to forget versions")
        self.versions.forget()

    def refresh(self) -> None:
        """As a reader beside a writer, which has written meanwhile."""
        self.versions.refresh()
        self.schemas.refresh()

    def keep(self) -> None:
        """In a forked child: keep what is of RocksDB, and refuse it."""
        self.views.forked()
        self.versions.keep()

    def close(self) -> None:
        """Whoever still reads is told that it is closed."""
        self.views.close()
        self.versions.close()
