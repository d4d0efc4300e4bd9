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

WAIT_S, JOBS_MAX = 8.0, 200


class Key(NamedTuple):
    """Who started a call, and about what: a page shows the outcome to nobody else."""

    visitor: str
    subject: str


class Job:
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
        self._jobs: dict[Key, Job] = {}
        self._lock = threading.Lock()

    def start(self, key: Key, call: Callable[[Callable[[], None]], object], wait_s: float = WAIT_S) -> bool:
        """Run a call, and return when it calls its argument (it has begun), when it has ended, or after the
        time. Return whether it has begun or ended. Raises the call's error, if it ended in time."""
        job = Job(call)
        with self._lock:
            self._jobs.pop(key, None)
            while len(self._jobs) >= JOBS_MAX:
                del self._jobs[next(iter(self._jobs))]
            self._jobs[key] = job
        told = job.wait(wait_s)
        if job.error is not None:
            with self._lock:
                if self._jobs.get(key) is job:
                    del self._jobs[key]
            raise job.error
        return told

    def news(self, key: Key) -> str | None:
        """Return what a page has to say about the last call: "" while it has not begun, the text of its
        error once, None: nothing."""
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                return None
            if not job.told:
                return ""
            if job.error is not None or not job.running:
                del self._jobs[key]
        return str(job.error) if job.error is not None else None
