"""Auto: what is pending is applied when a server starts, and operators are told.

    pending ─▶ started ─▶ applied ─▶ finished
       │           └────────────────▶ failed, with the reason
       └─▶ left out: from the first on that somebody rejected, rolled back or cancelled

Invariants
  (1) a run is told once, also by a server that starts again and again: its subject is made of what
      is pending, and that of a failure of the reason, too;
  (2) what somebody decided not to have is not applied by a mere restart.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from everlog.migrations.approval.notify import Message, last_done, message_of, said, some
from everlog.migrations.folder import SOURCE, Source
from everlog.migrations.lock import lock
from everlog.migrations.migration import Migration
from everlog.migrations.plan import load_for, pending
from everlog.migrations.proposal import Settled, settled
from everlog.migrations.runner import apply
from everlog.migrations.status import MigrationInfo
from everlog.store.database import Database
from everlog.store.errors import Error
from everlog.store.progress import OnProgress

logger = logging.getLogger("everlog")


@dataclass
class AutoRun:
    """One run of what is pending on one database. `name` is what people call it; `changed` is called
    after each event. Safe to be asked for messages from another thread."""

    db: Database
    source: Source = SOURCE
    name: str = ""
    changed: Callable[[], None] = lambda: None

    left_out: str = ""  # why not all was applied

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
        """Apply the pending migrations, as `everlog.migrations.apply`, and notify
        operators. What was rejected,
        rolled back or cancelled is left out, with what comes after it: `left_out` then says so. Raises
        what `apply` raises."""
        self._since = last_done(self.db)
        with lock(self.db.uuid, actor, progress=progress, reenter=True):
            return self._run(
                actor=actor, reason=reason, hold=hold, rate=rate, progress=progress, applied=applied
            )

    def _run(self, *, actor: str, reason: str, **how: Any) -> list[MigrationInfo]:
        def begin(todo: Sequence[Migration]) -> None:
            self._todo = todo
            if todo:
                lines = some([f"- {one.title}" for one in todo], "migrations")
                self._tell("started", said("started", actor, reason), *lines)

        try:
            todo = pending(self.db, load_for(self.db, self.source))
            out = settled(self.db, todo)
            if out is not None:
                self._leave_out(out)
                todo = todo[: todo.index(out.migration)]
                how["to"] = todo[-1].version if todo else None
            if out is not None and not todo:
                return []
            done = apply(self.db, self.source, actor=actor, reason=reason, check=begin, **how)
        except Error as error:
            self._tell("failed", said("failed", actor, reason), str(error), about=str(error))
            raise
        if done:
            lines = some([f"- {one.title} (commit {one.seq})" for one in done], "migrations")
            self._tell("finished", said("finished", actor, reason), *lines)
        return done

    def _leave_out(self, out: Settled) -> None:
        self.left_out = out.says
        self._tell("left_out", out.says, about=out.says)
        logger.warning("%s: %s", self.name or self.db.url, out.says)

    def since(self) -> int | None:
        """The seq before which nothing was told of this run; None: it has not begun. Read-only."""
        return self._since

    def messages(self, since: int) -> list[Message]:
        """All, in order. Read-only."""
        return list(self._messages)

    def _tell(self, event: str, *lines: str, about: str = "") -> None:
        name = self.name or self.db.url
        title = f"{name}: the migration to {self._todo[-1].version}" if self._todo else f"{name}: migrating"
        self._messages.append(message_of(event, self._digest(about), title, iter(lines)))
        self.changed()

    def _digest(self, about: str) -> str:
        """Hexadecimal; of the database, of what is to be done, and of what is told of it besides."""
        return hashlib.sha256(b"\0".join(self._parts(about))).hexdigest()

    def _parts(self, about: str) -> Iterator[bytes]:
        yield self.db.uuid
        for one in self._todo:
            yield f"{one.title} {one.folder.digest.hex()}".encode()
        yield about.encode(errors="backslashreplace")
