"""Lock: one thread at a time migrates a database, or decides about it; the others wait.

    lock ─▶ holder ─▶ ask_to_end(by) by another thread ─▶ check_going() raises in the holder's

A directory is open in one process at most, which the store sees to. So the lock is between the
threads of that process: a server's calls, an application. It is released however its holder ends, and
dies with the process.

Invariants
  (1) whatever is checked of a migration's state is checked by the holder of the lock, or again by a
      precondition of the record that rests upon it;
  (2) a holder that was asked to end writes nothing more of its migration (`check_going`).

Stop: how what takes long is stopped where it can be gone on with: through its progress.

somebody ─ set ─▶ Stop ─ through(progress) ─▶ the next sign of progress raises ClosedError
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from everlog.store.errors import ClosedError, MigrationError
from everlog.store.progress import OnProgress, Progress
from everlog.store.tx.transaction import Metadata

WAIT_S = 60.0

_free = threading.Condition()


@dataclass
class Holder:
    """Who holds a lock. `at`: the version and name of the migration that it is at work on. `asked`: by
    whom it was asked to end; `ended`: that it does so."""

    who: str
    thread: int = field(default_factory=threading.get_ident)
    at: tuple[int, str] = (0, "")
    asked: Metadata | None = None
    ended: bool = False


_holders: dict[bytes, Holder] = {}  # by the UUID of the database


@contextmanager
def lock(
    database: bytes,
    who: str,
    *,
    wait_s: float = WAIT_S,
    progress: OnProgress | None = None,
    reenter: bool = False,
) -> Iterator[Holder]:
    """Holds the lock of the database with this uuid for the length of the block. With `reenter` the
    thread that holds it enters it once more.

    Waits up to `wait_s` seconds for another holder, then raises MigrationError saying who it is.
    """
    until = time.monotonic() + wait_s
    with _free:
        known = _holders.get(database)
        nested = reenter and known is not None and known.thread == threading.get_ident()
        while not nested and (holder := _holders.get(database)) is not None:
            if progress is not None:
                progress(Progress(f"wait for {holder.who}", 0))
            if not _free.wait(max(0.0, until - time.monotonic())) and time.monotonic() >= until:
                raise MigrationError(
                    f"the database is being migrated by {holder.who}; waited {wait_s:g} s; try again later",
                    holder=holder.who,
                )
        if not nested:
            since = datetime.now(UTC).isoformat(" ", "seconds")
            known = _holders[database] = Holder(
                f"{who or 'somebody'} (thread {threading.current_thread().name}, since {since})"
            )
    assert known is not None
    try:
        yield known
    finally:
        if not nested:
            with _free:
                del _holders[database]
                _free.notify_all()


def ask_to_end(database: bytes, by: Metadata) -> Holder | None:
    """Asks another thread that holds the lock to end what it does, in the name of `by`; returns it."""
    with _free:
        holder = _holders.get(database)
        if holder is None or holder.thread == threading.get_ident():
            return None
        holder.asked = holder.asked or by
        return holder


def check_going(database: bytes) -> None:
    """Raises MigrationError, with `cancelled_by` and `reason`, if the thread that calls holds the lock
    and was asked to end."""
    holder = _holders.get(database)
    if holder is not None and holder.thread == threading.get_ident() and holder.asked is not None:
        by, holder.ended = holder.asked, True
        raise MigrationError(
            f"it was cancelled by {by.actor or 'somebody'}{f' ({by.reason})' if by.reason else ''}",
            cancelled_by=by.actor,
            reason=by.reason,
        )


class Stop:
    """Once it is set, it stays so. Safe to use from many threads."""

    def __init__(self) -> None:
        self._set = threading.Event()

    def set(self) -> None:
        self._set.set()

    def through(self, progress: OnProgress | None) -> OnProgress:
        """Hands progress on, and raises ClosedError once it is to stop."""

        def told(at: Progress) -> None:
            if self._set.is_set():
                raise ClosedError(f"the server stopped while it was at: {at.step}; the next start goes on")
            if progress is not None:
                progress(at)

        return told
