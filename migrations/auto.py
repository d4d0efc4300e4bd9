"""Auto: what is pending is applied when a server starts, and operators are told.

    pending ─▶ started ─▶ applied ─▶ finished
                   └────────────────▶ failed, with the reason

Invariants
  (1) a run is told once, also by a server that starts again and again: its subject is made of what
      is pending, and that of a failure of the reason, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from everlog.migrations.folder import SOURCE, Source
from everlog.migrations.messages import Message, message_of, said, some
from everlog.migrations.migration import Migration
from everlog.migrations.runner import apply
from everlog.migrations.status import MigrationInfo
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import Error
from everlog.store.progress import OnProgress

_DONE = (log_pb2.Migration.FINISHED, log_pb2.Migration.SWITCHED)


@dataclass
class AutoRun:
    """One run of what is pending on one database. `name` is what people call it; `changed` is called
    after each event. Safe to be asked for messages from another thread."""

    db: Database
    source: Source = SOURCE
    name: str = ""
    changed: Callable[[], None] = lambda: None

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
        """Applies what is pending, as `everlog.migrations.apply`, and has it told. Raises what that
        raises."""
        self._since = _last_done(self.db)

        def begin(todo: Sequence[Migration]) -> None:
            self._todo = todo
            if todo:
                lines = some([f"- {one.title}" for one in todo], "migrations")
                self._tell("started", said("started", actor, reason), *lines)

        try:
            done = apply(
                self.db,
                self.source,
                actor=actor,
                reason=reason,
                hold=hold,
                rate=rate,
                progress=progress,
                applied=applied,
                check=begin,
            )
        except Error as error:
            self._tell("failed", said("failed", actor, reason), str(error), about=str(error))
            raise
        if done:
            lines = some([f"- {one.title} (commit {one.seq})" for one in done], "migrations")
            self._tell("finished", said("finished", actor, reason), *lines)
        return done

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


def _last_done(db: Database) -> int:
    """Seq of the last migration that was done: what is pending since was told after it."""
    return max((one.seq for one in db.migrations() if one.migration.step in _DONE), default=0)
