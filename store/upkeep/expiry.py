"""Expiry: delete expired rows by ordinary commits.

    note 9 (expires_ns space key)  in the order of time ─▶ expired ones ─▶ DELETE … actor `everlog`,
                                                                          reason `expired`

Followers, history and the feed see an ordinary delete, and a rebuild does not depend on a clock. The
writing process sweeps: one thread, started when a row has an expiry, sleeps until the next one.

Invariants
  (1) time alone deletes nothing: until the commit that deletes it, the row exists;
  (2) a row that is written again after it expired stays: such a delete conflicts, and the sweeper looks
      again;
  (3) nothing is deleted after the clock jumped forward, until it is confirmed (clock.py).

The long story: docs/expiry.md.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from itertools import islice

from everlog.store import keys
from everlog.store.clock import JUMP_S
from everlog.store.core import Core
from everlog.store.errors import ClosedError, ConflictError, Error
from everlog.store.program_log import about
from everlog.store.progress import interruption_point
from everlog.store.rocks.view import View
from everlog.store.schema import codec
from everlog.store.schema.schema import Schema
from everlog.store.tx.transaction import Metadata, Reads, Transaction
from everlog.store.tx.write import NEVER, Write, delete

CHUNK_ROWS = 1024
EVERY_S, LOOK_S = 1.0, 60.0  # minimum and maximum time between two sweeps
DUE_MAX = 1_000_000  # status counts no further

EXPIRED = Metadata(actor="everlog", reason="expired")

logger = logging.getLogger("everlog")


def expire(core: Core, *, confirm_time: bool = False, stopped: Callable[[], bool] = lambda: False) -> int:
    """See `Admin.expire`."""
    if confirm_time:
        core.clock.confirm()
    elif jumped_s := core.clock.look():
        raise Error(
            f"the clock jumped forward by {jumped_s:,.0f} s, so no row expires; if the time is correct,"
            " confirm it with `everlog expire --trust-clock`",
            jumped_s=jumped_s,
        )
    rows, after, size = 0, keys.NOTE_END, CHUNK_ROWS
    until = _until(core.clock.read())
    while not stopped():
        interruption_point()
        transaction, last = _over(core, after, until, size)
        if last is None:
            break
        if transaction.writes:
            try:
                core.commit(transaction)
            except ConflictError:
                size = max(1, size // 2)  # a single row conflicts only if it was written again: then it stays
                continue
        rows += len(transaction.writes)
        after, size = last + b"\x00", min(size * 2, CHUNK_ROWS)
    return rows


def _over(core: Core, start: bytes, end: bytes, most: int) -> tuple[Transaction, bytes | None]:
    """Return a transaction that deletes the next expired rows, and the last of their notes; None: no more."""
    transaction = Transaction(core, EXPIRED)
    view, seq = core.tables.snapshot()
    try:
        notes = view.first_items(start, end, most)
    finally:
        view.close()
    writes = [one for note, _ in notes if (one := _delete(core.schema, note)) is not None]
    transaction.snapshot, transaction.reads = seq, Reads({one.full for one in writes}, [])
    transaction.writes = {one.full: one for one in writes}
    return transaction, notes[-1][0] if notes else None


def _delete(schema: Schema, note: bytes) -> Write | None:
    """Return the delete of a row whose end is due.

    None for a row of a generation that is not in force, which is deleted with the one in force, and for a
    sealed row while there are no keys.
    """
    _, space, key = keys.read_end(note)
    info = schema.spaces.get(space)
    if info is not None and info.sealing is not None and info.sealing.vault.locked:
        return None
    return delete(info, key) if info is not None and schema.tables.get(info.name) is info else None


def _until(now_ns: int) -> bytes:
    """Return a key after the notes of all rows expired at `now_ns`."""
    return keys.NOTE_END + keys.SEQ.pack(now_ns + 1)


def next_end(view: View) -> int:
    """Return when the next row expires, in nanoseconds since the Unix epoch; 0: none does. Read-only."""
    for note, _ in view.first_items(keys.NOTE_END, codec.after(keys.NOTE_END), 1):
        return keys.read_end(note)[0]
    return 0


def due(view: View, now_ns: int) -> int:
    """Return how many expired rows are not deleted yet, counted up to a million. Read-only."""
    return sum(1 for _ in islice(view.items(keys.NOTE_END, _until(now_ns)), DUE_MAX))


class Sweeper:
    """Deletes rows as they expire, on a thread of its own, while its database is open.

    `expect` learns of a row before it is visible, and takes no lock: a row missed this way is found at the
    next look, a minute later. If a row expired more than ten minutes before the opening, sweeping begins a
    minute later, so that opening a database briefly with a clock that is ahead deletes nothing.
    """

    def __init__(self, core: Core) -> None:
        self._core = weakref.ref(core)
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._next_ns = NEVER
        self._from_s = 0.0
        if core.tables.counts.get(keys.ENDS):
            if core.clock.read() - _first_end(core) > JUMP_S * 1e9:
                self._from_s = time.monotonic() + LOOK_S
            self.expect(0)

    def expect(self, expires_ns: int) -> None:
        """Schedule a sweep for a row's expiry. It must return quickly: it is called for every such row that
        is written."""
        if expires_ns < self._next_ns:
            self._next_ns = expires_ns
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="everlog-sweeper", daemon=True)
                self._thread.start()
            self._wanted.set()

    def _run(self) -> None:
        if self._stopped.wait(max(0.0, self._from_s - time.monotonic())):
            return
        while not self._stopped.is_set():
            self._wanted.clear()
            if (core := self._core()) is None:
                return
            try:
                rest_s = self._sweep(core)
            except ClosedError:
                return
            except Error as error:
                extra = about("expiry.failed", database=str(core.path), same="")
                logger.warning("expired rows could not be deleted: %s", error, extra=extra)
                rest_s = LOOK_S
            del core
            if self._stopped.wait(EVERY_S):
                return
            self._wanted.wait(max(0.0, rest_s - EVERY_S))

    def _sweep(self, core: Core) -> float:
        """Delete expired rows. Return the time until there is more to do, in seconds."""
        if core.clock.look():
            return LOOK_S
        self._next_ns = NEVER  # first: rows written meanwhile count
        expire(core, stopped=self._stopped.is_set)
        next_ns = self._next_ns = min(self._next_ns, _first_end(core))
        return min((next_ns - core.clock.read()) / 1e9, LOOK_S)

    def close(self) -> None:
        """End the thread, after its current commit."""
        self._stopped.set()
        self._wanted.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


def _first_end(core: Core) -> int:
    """Return when the next row expires; NEVER: none does."""
    view, _ = core.tables.snapshot()
    try:
        return next_end(view) or NEVER
    finally:
        view.close()
