"""Lock: only one thread at a time migrates a database or decides about a migration; the others wait.

    lock ─▶ holder ─▶ ask_to_end(by) from another thread ─▶ check_going() raises in the holder's thread

A directory is open in one process at most, which the store ensures. So the lock is between the threads of
that process: the calls of a server, an application. It is released however its holder ends, and disappears
with the process.

`Stop` is cooperative cancellation of resumable work, through its progress callbacks:

    owner ─ set ─▶ Stop ─ through(progress) ─▶ the next progress report raises ClosedError

Invariants
  (1) The state of a migration is checked while holding the lock, or checked again by a precondition of
      the record that depends on it.
  (2) A holder that was asked to end writes nothing more of its migration (`check_going`).
  (3) A call of a server that was ended while it waited does nothing: its caller may have lost the right
      (`guarded`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
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
    """The holder of a lock.

    `at`: version and name of the migration in progress. `decision_id`: the decision that it is being prepared
    for. `asked`: who asked it to end. `ended`: whether it
    ended for that reason.
    """

    who: str
    thread: int = field(default_factory=threading.get_ident)
    at: tuple[int, str] = (0, "")
    decision_id: bytes = b""
    asked: Metadata | None = None
    ended: bool = False


_holders: dict[bytes, Holder] = {}  # by the UUID of the database


class _Thread(threading.local):
    check: Callable[[], None] | None = None


_thread = _Thread()


@contextmanager
def guarded(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` whenever this thread has waited for a lock in the block. If it raises, the lock is
    released."""
    before, _thread.check = _thread.check, check
    try:
        yield
    finally:
        _thread.check = before


@contextmanager
def lock(
    database: bytes,
    who: str,
    *,
    wait_s: float = WAIT_S,
    progress: OnProgress | None = None,
    reenter: bool = False,
) -> Iterator[Holder]:
    """Hold the lock of the database with this UUID for the duration of the block.

    Waits up to `wait_s` seconds for another holder, then raises MigrationError naming it. With `reenter`, the
    thread that already holds the lock may enter again.
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
                f"{who or 'an unnamed caller'} (thread {threading.current_thread().name}, since {since})"
            )
    assert known is not None
    try:
        if not nested and _thread.check is not None:
            _thread.check()
        yield known
    finally:
        if not nested:
            with _free:
                del _holders[database]
                _free.notify_all()


def holder_of(database: bytes) -> str:
    """Return the name of the holder of a database's lock; empty: it is free."""
    holder = _holders.get(database)
    return holder.who if holder is not None else ""


def ask_to_end(database: bytes, by: Metadata, *, decision_id: bytes = b"") -> Holder | None:
    """Ask another thread that holds the lock to stop its work, on behalf of `by`. Return it, or None.

    With `decision_id` only a thread that prepares a migration for that decision.
    """
    with _free:
        holder = _holders.get(database)
        if holder is None or holder.thread == threading.get_ident():
            return None
        if decision_id and holder.decision_id != decision_id:
            return None
        holder.asked = holder.asked or by
        return holder


def check_going(database: bytes) -> None:
    """Raise MigrationError, with `cancelled_by` and `reason`, if the calling thread holds the lock and was
    asked to end.
    """
    holder = _holders.get(database)
    if holder is not None and holder.thread == threading.get_ident() and holder.asked is not None:
        by, holder.ended = holder.asked, True
        raise MigrationError(
            f"it was cancelled by {by.actor or 'an unnamed caller'}{f' ({by.reason})' if by.reason else ''}",
            cancelled_by=by.actor,
            reason=by.reason,
        )


class Stop:
    """A flag that stops work at its next progress report. Once set, it stays set. Safe for threads."""

    def __init__(self) -> None:
        self._set = threading.Event()

    def set(self) -> None:
        self._set.set()

    def through(self, progress: OnProgress | None) -> OnProgress:
        """Return a callback that forwards progress, and raises ClosedError once the flag is set."""

        def report(at: Progress) -> None:
            if self._set.is_set():
                raise ClosedError(f"the server stopped during: {at.step}; the next start resumes it")
            if progress is not None:
                progress(at)

        return report
