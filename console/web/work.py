"""Work: calls that may take longer than the request that started them, such as an approval.

    form ─▶ Work.start ─▶ thread ─▶ the call at the server, to its end
      │                     ├─ it has begun, or has ended ─▶ the answer to the form
      └──── after WAIT_S ───┴─ neither: the page states this, and shows the outcome later

The server continues a call whose client goes away, so only what a page shows depends on these threads. Work
with a page of its own, such as a check, is a job (jobs.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from everlog.store.errors import Error

WAIT_S, CALLS_MAX = 8.0, 200


class Key(NamedTuple):
    """Who started a call, and about what: a page shows the outcome to nobody else."""

    visitor: str
    subject: str


class Call:
    """One call. `error` is set if it failed."""

    def __init__(self, call: Callable[[Callable[[], None]], object]) -> None:
        self.error: Error | None = None
        self._call = call
        self._told = threading.Event()  # it has begun or ended
        self._thread = threading.Thread(target=self._run, name="everlog-console-work", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Return whether the call has begun or ended within the time."""
        return self._told.wait(timeout_s)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def told(self) -> bool:
        return self._told.is_set()

    def _run(self) -> None:
        try:
            self._call(self._told.set)
        except Error as error:
            self.error = error
        finally:
            self._told.set()


class Work:
    """All calls of one console. Thread-safe."""

    def __init__(self) -> None:
        self._calls: dict[Key, Call] = {}
        self._lock = threading.Lock()

    def start(self, key: Key, call: Callable[[Callable[[], None]], object], wait_s: float = WAIT_S) -> bool:
        """Run a call, and return when it calls its argument (it has begun), when it has ended, or after the
        time. Return whether it has begun or ended. Raises the call's error, if it ended in time."""
        begun = Call(call)
        with self._lock:
            self._calls.pop(key, None)
            while len(self._calls) >= CALLS_MAX:
                del self._calls[next(iter(self._calls))]
            self._calls[key] = begun
        told = begun.wait(wait_s)
        if begun.error is not None:
            with self._lock:
                if self._calls.get(key) is begun:
                    del self._calls[key]
            raise begun.error
        return told

    def news(self, key: Key) -> str | None:
        """Return what a page has to say about the last call: "" while it has not begun, the text of its
        error once, None: nothing."""
        with self._lock:
            begun = self._calls.get(key)
            if begun is None:
                return None
            if not begun.told:
                return ""
            if begun.error is not None or not begun.running:
                del self._calls[key]
        return str(begun.error) if begun.error is not None else None
