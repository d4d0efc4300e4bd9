"""Lock: one at a time migrates a database; the others wait, and can say for whom.

A directory is open in one process at most, which the store sees to; so what is left is the
threads of that process: a server's calls, an app's. The lock is let go of however its holder
ends, and dies with the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from everlog.store.errors import MigrationError
from everlog.store.progress import OnProgress, Progress

WAIT_S = 60.0

_free = threading.Condition()
_holders: dict[bytes, str] = {}  # uuid of a database: who migrates it


@contextmanager
def lock(
    database: bytes, who: str, *, wait_s: float = WAIT_S, progress: OnProgress | None = None
) -> Iterator[None]:
    """Holds the lock of the database with this uuid for the length of the block.

    Waits up to `wait_s` seconds for another holder, then raises MigrationError saying who it is.
    """
    until = time.monotonic() + wait_s
    with _free:
        while (holder := _holders.get(database)) is not None:
            if progress is not None:
                progress(Progress(f"wait for {holder}", 0))
            if not _free.wait(max(0.0, until - time.monotonic())) and time.monotonic() >= until:
                raise MigrationError(
                    f"the database is being migrated by {holder}; waited {wait_s:g} s; try again later",
                    holder=holder,
                )
        since = datetime.now(UTC).isoformat(" ", "seconds")
        _holders[database] = f"{who or 'somebody'} (thread {threading.current_thread().name}, since {since})"
    try:
        yield
    finally:
        with _free:
            del _holders[database]
            _free.notify_all()
