"""Local migrations: `db.migrations` of a database in this process.

    db.migrations ─┬─ LocalMigrations     the folders of this machine, the functions of this room
                   └─ RemoteMigrations    the folders of a server (everlog.rpc.client.migrations)

`everlog.rpc.handles` has the protocol of both, with what each call does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from everlog.migrations.approval.approval import Approval
from everlog.migrations.baseline import baseline, dump_schema, load_schema
from everlog.migrations.details import Details, show
from everlog.migrations.folder import SOURCE, Source
from everlog.migrations.in_progress import cancel, complete
from everlog.migrations.lint.lint import lint
from everlog.migrations.lint.rules import Finding
from everlog.migrations.plan import PlannedMigration, plan
from everlog.migrations.prepared import Decision, abort_prepared, commit_prepared, prepare
from everlog.migrations.proposal import Proposal, ProposalState, Rules, proposals
from everlog.migrations.recorded_folders import Restored, accept, restore_folders
from everlog.migrations.rollback import PlannedRollback, plan_rollback, rollback
from everlog.migrations.runner import apply
from everlog.migrations.status import MigrationInfo, compare, differences, status
from everlog.store.database import Database
from everlog.store.errors import SchemaError
from everlog.store.progress import OnProgress


class LocalMigrations:
    """The migrations of a database in this process. `source`: the package or directory of their folders;
    None: the default directory."""

    def __init__(self, db: Database, source: Source | None = None) -> None:
        self._db = db
        self._named = source
        self._source = source or SOURCE

    def status(self) -> list[MigrationInfo]:
        try:
            return status(self._db, self._source)
        except SchemaError:
            if self._named is None:  # no folders were named, and the default directory does not exist
                return compare(self._db.migration_records(), [])
            raise

    def differences(self) -> dict[int, str]:
        return differences(self._db, self._source)

    def problem(self) -> str:
        return ""

    def rules(self) -> Rules | None:
        return Rules.from_environment()

    def show(self, version: int, *, digest: bytes = b"") -> Details:
        return show(self._db, version, self._source, digest=digest)

    def lint(
        self,
        source: Source | None = None,
        *,
        since: int = 0,
        ignored: bool = False,
        progress: OnProgress | None = None,
    ) -> list[Finding]:
        return lint(source or self._source, self._db, since=since, ignored=ignored, progress=progress)

    def plan(
        self,
        *,
        to: int | None = None,
        out_of_order: bool = False,
        try_rows: bool = False,
        hold: bool = False,
        prepare: bool = False,
    ) -> list[PlannedMigration]:
        return plan(
            self._db,
            self._source,
            to=to,
            out_of_order=out_of_order,
            try_rows=try_rows,
            hold=hold,
            prepare=prepare,
        )

    def apply(
        self,
        *,
        to: int | None = None,
        out_of_order: bool = False,
        hold: bool = False,
        rate: float | None = None,
        actor: str = "",
        reason: str = "",
        progress: OnProgress | None = None,
        applied: Callable[[MigrationInfo], None] | None = None,
    ) -> list[MigrationInfo]:
        return apply(
            self._db,
            self._source,
            to=to,
            out_of_order=out_of_order,
            hold=hold,
            rate=rate,
            actor=actor,
            reason=reason,
            progress=progress,
            applied=applied,
        )

    def complete(self, *, actor: str = "", reason: str = "") -> MigrationInfo:
        return complete(self._db, actor=actor, reason=reason)

    def prepare(
        self,
        decision_id: bytes,
        *,
        fence: int = 0,
        to: int | None = None,
        hold: bool = False,
        rate: float | None = None,
        actor: str = "",
        reason: str = "",
        progress: OnProgress | None = None,
    ) -> Decision:
        return prepare(
            self._db,
            decision_id,
            self._source,
            fence=fence,
            to=to,
            hold=hold,
            rate=rate,
            actor=actor,
            reason=reason,
            progress=progress,
        )

    def commit_prepared(
        self, decision_id: bytes, *, fence: int = 0, actor: str = "", reason: str = ""
    ) -> Decision:
        return commit_prepared(self._db, decision_id, fence=fence, actor=actor, reason=reason)

    def abort_prepared(
        self, decision_id: bytes, *, fence: int = 0, actor: str = "", reason: str = ""
    ) -> Decision:
        return abort_prepared(self._db, decision_id, fence=fence, actor=actor, reason=reason)

    def cancel(self, *, actor: str = "", reason: str = "") -> MigrationInfo:
        approval = self._approval()
        found = approval.proposals()
        if approval.rules.approvers or (found and found[-1].state is ProposalState.APPROVED):
            return approval.cancel(actor=actor, reason=reason)
        return cancel(self._db, actor=actor, reason=reason)

    def plan_rollback(self, count: int | None = None, *, to: int | None = None) -> list[PlannedRollback]:
        return plan_rollback(self._db, count, to=to, source=self._source)

    def rollback(
        self,
        count: int | None = None,
        *,
        to: int | None = None,
        rate: float | None = None,
        actor: str = "",
        reason: str = "",
        progress: OnProgress | None = None,
        rolled_back: Callable[[MigrationInfo], None] | None = None,
    ) -> list[MigrationInfo]:
        return rollback(
            self._db,
            count,
            to=to,
            source=self._source,
            rate=rate,
            actor=actor,
            reason=reason,
            progress=progress,
            rolled_back=rolled_back,
        )

    def dump(self) -> str:
        return dump_schema(self._db)

    def load(self, text: str, *, where: str = "the text", actor: str = "", reason: str = "") -> int:
        return load_schema(self._db, text, where=where, actor=actor, reason=reason)

    def baseline(self, version: int, *, actor: str = "", reason: str = "") -> list[MigrationInfo]:
        return baseline(self._db, version, self._source, actor=actor, reason=reason)

    def accept(
        self, versions: Sequence[int] = (), *, actor: str = "", reason: str = ""
    ) -> list[MigrationInfo]:
        rules = Rules.from_environment()
        if rules.approvers:
            rules.check_name(actor, "accept folders of", self._db.path.stem)
        return accept(self._db, self._source, versions, actor=actor, reason=reason)

    def restore_folders(
        self, versions: Sequence[int] = (), *, source: Source | None = None, force: bool = False
    ) -> list[Restored]:
        return restore_folders(self._db, source or self._source, versions, force=force)

    def proposals(self) -> list[Proposal]:
        return proposals(self._db)

    def propose(self, *, actor: str = "", reason: str = "") -> Proposal | None:
        return self._approval().propose(actor=actor, reason=reason, again=True)

    def approve(
        self,
        digest: str,
        *,
        actor: str = "",
        reason: str = "",
        despite_errors: bool = False,
        approved: Callable[[Proposal], None] | None = None,
        progress: OnProgress | None = None,
        applied: Callable[[MigrationInfo], None] | None = None,
    ) -> Proposal:
        return self._approval().approve_and_run(
            digest,
            actor=actor,
            reason=reason,
            despite_errors=despite_errors,
            approved=approved,
            progress=progress,
            applied=applied,
        )

    def reject(self, digest: str, *, actor: str = "", reason: str = "") -> Proposal:
        return self._approval().reject(digest, actor=actor, reason=reason)

    def _approval(self) -> Approval:
        return Approval(self._db, self._source, self._db.path.stem, Rules.from_environment())
