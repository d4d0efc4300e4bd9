"""Embedded: a database in this process, with its change feed and the handles of `everlog.rpc.handles`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from everlog.feed.feed import Feed, feed
from everlog.feed.subscription import HEARTBEAT_S
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.rocks.files import Temporary
from everlog.store.schema.table import Table

if TYPE_CHECKING:
    from everlog.audit.prover import Prover
    from everlog.migrations.folder import Source
    from everlog.rpc import handles


class EmbeddedDatabase(Database):
    """The database that `everlog.open` returns for `file:` and `memory:`."""

    scratch: Temporary | None = None  # its directory, if that is removed when it is closed
    leave_fleet: Callable[[], None] | None = None  # ends its membership, before it is closed
    folders: Source | None = None  # package or directory of its migrations; None: the default directory

    @property
    def migrations(self) -> handles.Migrations:
        """The migrations: plan, apply, roll back, approve; see `everlog.rpc.handles.Migrations`."""
        from everlog.migrations.local import LocalMigrations

        return LocalMigrations(self, self.folders)

    @property
    def proofs(self) -> Prover:
        """Checkpoints and proofs of the log; see `everlog.audit.prover.Prover`."""
        from everlog.audit.prover import LocalProver

        return LocalProver(self)

    @property
    def archive(self) -> handles.Archive:
        """Backup, archive and holds of the log; see `everlog.rpc.handles.Archive`."""
        from everlog.audit.archive import LocalArchive

        return LocalArchive(self)

    @property
    def follows_writer(self) -> bool:
        """Whether another process writes: newer commits are seen after `refresh`."""
        return self.read_only

    def close(self) -> None:
        """Write everything to files and release the directory. May be called twice."""
        leave, self.leave_fleet = self.leave_fleet, None
        if leave is not None:
            leave()
        super().close()
        if self.scratch is not None:
            self.scratch.remove()

    def feed(
        self,
        after: int | log_pb2.Cursor = 0,
        *,
        tables: Iterable[Table[Any, Any] | str] | None = None,
        now: bool = False,
        until: int | None = None,
        bounded: bool = False,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> Feed:
        """Follow the log: commits in order, after a seq or a cursor, or from `now` on; see
        `everlog.feed.feed`. Read-only."""
        self.core.check_open()
        return feed(
            self, after, tables=tables, now=now, until=until, bounded=bounded, heartbeat_s=heartbeat_s
        )
