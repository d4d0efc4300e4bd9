"""Auto: apply the pending migrations when a server starts, and notify operators.

    pending ─▶ started ─▶ applied ─▶ finished
       │           └────────────────▶ failed, with the reason
       └─▶ left out: the first that was rejected, rolled back or cancelled, and all after it; all, while one
       is
           prepared for a decision from outside

Invariants
  (1) A run is reported once, even if the server restarts often: its subject is derived from the pending
      migrations, and that of a failure from the reason as well.
  (2) A restart does not apply a migration that somebody decided against.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from everlog.migrations.approval.notify import Message, first_lines, last_done, message_of, summary_of
from everlog.migrations.folder import SOURCE, Source
from everlog.migrations.in_progress import attach, undecided
from everlog.migrations.lock import lock
from everlog.migrations.migration import Migration
from everlog.migrations.plan import load_for, pending
from everlog.migrations.proposal import settled
from everlog.migrations.runner import apply
from everlog.migrations.status import MigrationInfo
from everlog.store.database import Database
from everlog.store.errors import Error
from everlog.store.program_log import about
from everlog.store.progress import OnProgress

logger = logging.getLogger("everlog")


@dataclass
class AutoRun:
    """One run of the pending migrations of one database. `name` is its name for people.

    `changed` is called after each event. `messages` may be called from another thread.
    """

    db: Database
    source: Source = SOURCE
    name: str = ""
    changed: Callable[[], None] = lambda: None

    left_out: str = ""  # why some migrations were not applied

    _since: int | None = None
    _todo: Sequence[Migration] = ()
    _messages: list[Message] = field(default_factory=list)

    def run(
        self,
        *,
        actor: str = "",
        reason: str = "",
        hold: bool = False,
        rate: float | None = None,
        progress: OnProgress | None = None,
        applied: Callable[[MigrationInfo], None] | None = None,
    ) -> list[MigrationInfo]:
        """Apply the pending migrations, as `everlog.migrations.apply`, and notify operators. Return those
        applied.

        A migration that was rejected, rolled back or cancelled is left out, with all after it, and one that
        waits for a decision from outside; `left_out` then gives the reason. Raises what `apply` raises.
        """
        self._since = last_done(self.db)
        with lock(self.db.uuid, actor, progress=progress, reenter=True):
            return self._run(
                actor=actor, reason=reason, hold=hold, rate=rate, progress=progress, applied=applied
            )

    def _run(self, *, actor: str, reason: str, **how: Any) -> list[MigrationInfo]:
        def begin(todo: Sequence[Migration]) -> None:
            self._todo = todo
            if todo:
                lines = first_lines([f"- {one.title}" for one in todo], "migrations")
                self._tell("started", summary_of("started", actor, reason), *lines)

        try:
            known = load_for(self.db, self.source)
            if (waits := undecided(attach(self.db, known))) is not None:
                self._leave_out(str(waits))
                return []
            todo = pending(self.db, known)
            out = settled(self.db, todo)
            if out is not None:
                self._leave_out(out.says)
                todo = todo[: todo.index(out.migration)]
                how["to"] = todo[-1].version if todo else None
            if out is not None and not todo:
                return []
            done = apply(self.db, self.source, actor=actor, reason=reason, check=begin, **how)
        except Error as error:
            self._tell("failed", summary_of("failed", actor, reason), str(error), about=str(error))
            raise
        if done:
            lines = first_lines([f"- {one.title} (commit {one.seq})" for one in done], "migrations")
            self._tell("finished", summary_of("finished", actor, reason), *lines)
        return done

    def _leave_out(self, why: str) -> None:
        self.left_out = why
        self._tell("left_out", why, about=why)
        extra = about("migration.left_out", database=str(self.db.path))
        logger.warning("%s: %s", self.name or self.db.url, why, extra=extra)

    def since(self) -> int | None:
        """Return the seq from which messages are reported, or None if the run has not started. Read-only."""
        return self._since

    def messages(self, since: int) -> list[Message]:
        """Return all messages, in order. Read-only."""
        return list(self._messages)

    def _tell(self, event: str, *lines: str, about: str = "") -> None:
        name = self.name or self.db.url
        title = f"{name}: the migration to {self._todo[-1].version}" if self._todo else f"{name}: migrating"
        self._messages.append(message_of(event, self._digest(about), title, iter(lines)))
        self.changed()

    def _digest(self, about: str) -> str:
        """Return a hexadecimal digest of the database, the pending migrations and `about`."""
        return hashlib.sha256(b"\0".join(self._parts(about))).hexdigest()

    def _parts(self, about: str) -> Iterator[bytes]:
        yield self.db.uuid
        for one in self._todo:
            yield f"{one.title} {one.folder.digest.hex()}".encode()
        yield about.encode(errors="backslashreplace")
