"""Jobs: long work that a page starts, such as a check: its progress, results and end.

    POST ─▶ Jobs.start ─▶ a thread with the connections of the session ─▶ Job ◀─ pages that show it

A job is kept in this process only, among the newest JOBS_MAX.

Invariants
  (1) a job has the credentials of the session that started it, and ends with it;
  (2) its results are shown to its identity, and to those with the right `admin` in its database;
  (3) two jobs of one kind never run for one database at the same time.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from everlog.console.web.session import Session
from everlog.store.errors import ConflictError, Error, LimitError
from everlog.store.program_log import about
from everlog.store.progress import Progress

JOBS_MAX, RUNNING_MAX = 50, 8
PROBLEMS_MAX, CHARS_MAX = 1000, 2000  # problems of a job, and characters of each
STOP_S = 5.0

logger = logging.getLogger("everlog")


class StoppedError(Error):
    """Raised in the thread of a job that somebody has stopped."""


class Job:
    """One piece of work. Its thread writes it, pages read it."""

    def __init__(self, kind: str, title: str, database: str, session: Session) -> None:
        self.id = secrets.token_urlsafe(9)
        self.kind, self.title, self.database = kind, title, database
        self.session, self.who = session, session.name
        self.began_ns, self.ended_ns = time.time_ns(), 0
        self.problems, self.found = list[str](), 0
        self.result, self.error = "", ""
        self.progress: Progress | None = None
        self._stop = threading.Event()

    # of the thread

    def report(self, progress: Progress) -> None:
        """Note the progress. Raises StoppedError if somebody has stopped the job."""
        if self._stop.is_set():
            raise StoppedError("it was stopped")
        self.progress = progress

    def problem(self, text: str) -> None:
        """Note a problem that was found."""
        self.found += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(text[:CHARS_MAX])

    # of pages

    def stop(self) -> None:
        """End the job at its next progress."""
        self._stop.set()

    @property
    def running(self) -> bool:
        return not self.ended_ns

    def visible_to(self, session: Session, rights: Collection[str] = ()) -> bool:
        """Return whether a session with these rights in the job's database may see it."""
        return self.session.same(session) or "admin" in rights

    @property
    def state(self) -> tuple[str, str]:
        """The kind and the word of its badge."""
        if self.running:
            return "info", "Running"
        if self.error:
            return ("", "Stopped") if self._stop.is_set() else ("danger", "Failed")
        return ("danger", "Problems") if self.found else ("ok", "Done")

    def told(self) -> dict[str, Any]:
        """Return the job as JSON values."""
        kind, state = self.state
        at = self.progress
        return {
            "id": self.id,
            "work": self.kind,
            "title": self.title,
            "database": self.database,
            "who": self.who,
            "kind": kind,
            "state": state,
            "running": self.running,
            "began_ns": self.began_ns,
            "ended_ns": self.ended_ns,
            "took_s": ((self.ended_ns or time.time_ns()) - self.began_ns) / 1e9,
            "progress": None
            if at is None
            else {"step": at.step, "done": at.done, "total": at.total or 0, "unit": at.unit},
            "found": self.found,
            "problems": list(self.problems),
            "result": self.result,
            "error": self.error,
        }


class Jobs:
    """The jobs of one console. Thread-safe."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()

    def start(
        self, session: Session, database: str, kind: str, title: str, work: Callable[[Job], str]
    ) -> Job:
        """Start work, which returns its result as a sentence. Raises ConflictError if the same runs for the
        database already, LimitError if too many jobs run."""
        job = Job(kind, title, database, session)
        with self._lock:
            running = [one for one in self._jobs.values() if one.running]
            if any((one.database, one.kind) == (database, kind) for one in running):
                raise ConflictError(f"{title} of {database} runs already; wait until it has ended")
            if len(running) >= RUNNING_MAX:
                raise LimitError(
                    f"{RUNNING_MAX} jobs run already; try again later", limit="console_jobs", retry_s=5.0
                )
            ended = [id for id, one in self._jobs.items() if not one.running]
            for id in ended[: max(0, len(self._jobs) + 1 - JOBS_MAX)]:
                del self._jobs[id]
            self._jobs[job.id] = job
            thread = threading.Thread(target=self._run, args=(job, work), name=f"job-{kind}", daemon=True)
            self._threads[job.id] = thread
        thread.start()
        return job

    def get(self, id: str) -> Job | None:
        """Return a job by its id."""
        with self._lock:
            return self._jobs.get(id)

    def of(self, database: str) -> list[Job]:
        """Return the jobs of a database, the newest first."""
        with self._lock:
            return [one for one in reversed(self._jobs.values()) if one.database == database]

    def close(self) -> None:
        """Stop all jobs, and wait for their threads."""
        with self._lock:
            jobs, threads = list(self._jobs.values()), list(self._threads.values())
        for job in jobs:
            job.stop()
        for thread in threads:
            thread.join(STOP_S)

    def _run(self, job: Job, work: Callable[[Job], str]) -> None:
        try:
            job.result = work(job)
        except Error as error:
            job.error = str(error)
        except Exception as fault:
            name = type(fault).__name__
            job.error = f"a fault in the console: {name}; its log says where it happened"
            logger.error(  # noqa: TRY400  without the text of the fault, which may contain values of rows
                "a job failed: %s",
                name,
                exc_info=(Exception, Exception(name), fault.__traceback__),
                extra=about("job.fault"),
            )
        finally:
            job.ended_ns = time.time_ns()
            with self._lock:
                self._threads.pop(job.id, None)
