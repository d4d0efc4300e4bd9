"""Remote migrations: `db.migrations` of a database on a server, through the Migrations service.

The server uses the folders in its configuration; the client's folders are only linted, and written by
`restore_folders`. `everlog.rpc.handles` has the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from everlog.migrations.details import Details
from everlog.migrations.estimate import Estimate
from everlog.migrations.folder import SOURCE, Source
from everlog.migrations.lint.data import Readable
from everlog.migrations.lint.lint import Applied, lint
from everlog.migrations.lint.rules import Finding
from everlog.migrations.plan import PlannedMigration, PlannedStep, check_target
from everlog.migrations.prepared import Decision, DecisionState, order_of
from everlog.migrations.proposal import Proposal, Rules
from everlog.migrations.recorded_folders import Ran, Restored, write_folders
from everlog.migrations.rollback import PlannedRollback, check_which
from everlog.migrations.schema_text import to_text
from everlog.migrations.status import MigrationInfo, State
from everlog.proto import migrations_pb2 as pb
from everlog.proto import migrations_pb2_grpc
from everlog.rpc.client.channel import Channel
from everlog.rpc.wire import details_of, from_message
from everlog.store.errors import MigrationError, SchemaError, UnavailableError
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema import arguments
from everlog.store.schema.schema import Schema
from everlog.store.tx.transaction import Metadata

PLAN_S = 600.0


class RemoteMigrations:
    """The migrations of a database on a server, which has the calls `rows` and `refresh`. `source`: the local
    folders, for `lint` and `restore_folders`."""

    def __init__(
        self, channel: Channel, rows: Readable, refresh: Callable[[], Schema], source: Source | None = None
    ) -> None:
        self._channel = channel
        self._database = channel.address.database
        self._rows = rows
        self._refresh = refresh
        self._source = source or SOURCE
        self._stub = migrations_pb2_grpc.MigrationsStub(channel.grpc)

    def status(self) -> list[MigrationInfo]:
        """Return all migrations, oldest first. Read-only."""
        request = pb.ListMigrationsRequest(database=self._database)
        return [_info(one) for one in self._channel.call(self._stub.List, request).migrations]

    def differences(self) -> dict[int, str]:
        """Return the diff of each migration whose folder was edited after it was applied. Read-only."""
        request = pb.ListMigrationsRequest(database=self._database, diff=True)
        found = self._channel.call(self._stub.List, request).migrations
        return {one.version: one.diff for one in found if one.diff}

    def rules(self) -> Rules | None:
        """Return who may decide about proposals of the server; None: migrations need no approval there.
        Read-only."""
        request = pb.MigrationStatusRequest(database=self._database)
        found = self._channel.call(self._stub.Status, request)
        return Rules(frozenset(found.approvers), found.approve_own) if found.checked else None

    def show(self, version: int, *, digest: bytes = b"") -> Details:
        """Return one migration of the server; see `everlog.migrations.details.show`. Read-only."""
        arguments.counted(version, "a version", error=MigrationError)
        request = pb.ShowMigrationRequest(database=self._database, version=version, digest=digest)
        return details_of(self._channel.call(self._stub.Show, request, timeout_s=PLAN_S))

    def lint(
        self,
        source: Source | None = None,
        *,
        since: int = 0,
        ignored: bool = False,
        progress: OnProgress | None = None,
    ) -> list[Finding]:
        """Return the findings in the local folders, with the rows of the server. Read-only."""
        applied = {one.version: Applied(one.title, one.digest) for one in self.status() if one.digest}
        return lint(
            source or self._source,
            self._rows,
            applied=applied,
            since=since,
            ignored=ignored,
            progress=progress,
        )

    def plan(
        self,
        *,
        to: int | None = None,
        out_of_order: bool = False,
        try_rows: bool = False,
        hold: bool = False,
        prepare: bool = False,
    ) -> list[PlannedMigration]:
        """Return what `apply` would do with the same arguments, except `hold`. Read-only."""
        check_target(to, None)
        request = pb.PlanRequest(
            database=self._database,
            to=to or 0,
            out_of_order=out_of_order,
            try_rows=try_rows,
            prepare=prepare,
        )
        answer = self._channel.call(self._stub.Plan, request, timeout_s=PLAN_S)
        return [
            PlannedMigration(
                one.version,
                one.name,
                list(map(_step, one.steps)),
                _estimate(one.estimate) if one.HasField("estimate") else None,
            )
            for one in answer.migrations
        ]

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
        """Let the server apply the pending migrations; see `everlog.migrations.apply`. Writes.

        If the connection breaks meanwhile, applied migrations stay, and the server continues.
        """
        Metadata(actor, reason).check()
        check_target(to, rate)
        request = pb.ApplyRequest(
            database=self._database,
            to=to or 0,
            out_of_order=out_of_order,
            hold=hold,
            rate=rate or 0,
            actor=actor,
            reason=reason,
        )
        stub = self._stub
        done: list[MigrationInfo] = []
        for answer in self._channel.stream(stub.Apply, request):
            if answer.finished:
                info = MigrationInfo(answer.version, answer.name, State.APPLIED, seq=answer.seq, actor=actor)
                done.append(info)
                if applied is not None:
                    applied(info)
            elif progress is not None:
                progress(Progress(answer.step, answer.done, answer.total or None))
        self._refresh()
        return done

    def complete(self, *, actor: str = "", reason: str = "") -> MigrationInfo:
        """Stop serving the previous schema version; see `everlog.migrations.complete`. Writes."""
        Metadata(actor, reason).check()
        request = pb.CompleteRequest(database=self._database, actor=actor, reason=reason)
        done = self._channel.call(self._stub.Complete, request)
        self._refresh()
        return MigrationInfo(done.version, done.name, State.APPLIED, done.time_ns, done.seq, actor)

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
        """Let the server prepare the pending migration; see `everlog.migrations.prepare`. Writes.

        If the connection breaks meanwhile, the server continues.
        """
        order = self._order(decision_id, fence, actor, reason)
        check_target(to, rate)
        request = pb.PrepareRequest(**order, to=to or 0, hold=hold, rate=rate or 0)
        done = pb.Decision()
        for answer in self._channel.stream(self._stub.Prepare, request):
            if answer.HasField("decision"):
                done = answer.decision
            elif progress is not None:
                progress(Progress(answer.step, answer.done, answer.total or None))
        self._refresh()
        return _decision(done)

    def commit_prepared(
        self, decision_id: bytes, *, fence: int = 0, actor: str = "", reason: str = ""
    ) -> Decision:
        """Put the migration that waits for a decision in force; see `everlog.migrations.commit_prepared`.
        Writes."""
        request = pb.CommitPreparedRequest(**self._order(decision_id, fence, actor, reason))
        return self._decide(self._stub.CommitPrepared, request)

    def abort_prepared(
        self, decision_id: bytes, *, fence: int = 0, actor: str = "", reason: str = ""
    ) -> Decision:
        """Give up the migration that waits for a decision; see `everlog.migrations.abort_prepared`.
        Writes."""
        request = pb.AbortPreparedRequest(**self._order(decision_id, fence, actor, reason))
        return self._decide(self._stub.AbortPrepared, request)

    def _order(self, decision_id: bytes, fence: int, actor: str, reason: str) -> dict[str, Any]:
        """Return the fields of a request about a decision. Raises MigrationError, RowError."""
        Metadata(actor, reason).check()
        order = order_of(decision_id, fence)
        return {
            "database": self._database,
            "decision_id": order.decision_id,
            "fence": order.fence,
            "actor": actor,
            "reason": reason,
        }

    def _decide(self, method: Any, request: Any) -> Decision:
        done = self._channel.call(method, request, timeout_s=PLAN_S)
        self._refresh()
        return _decision(done.decision)

    def cancel(self, *, actor: str = "", reason: str = "") -> MigrationInfo:
        """Stop and abandon the migration or rollback in progress; see `everlog.migrations.cancel`. Writes."""
        Metadata(actor, reason).check()
        request = pb.CancelRequest(database=self._database, actor=actor, reason=reason)
        done = self._channel.call(self._stub.Cancel, request, timeout_s=PLAN_S)
        self._refresh()
        return MigrationInfo(done.version, done.name, State.PENDING, done.time_ns, done.seq, actor)

    def problem(self) -> str:
        """Why the server can neither propose nor apply the pending migrations; empty if it can. Read-only."""
        request = pb.MigrationStatusRequest(database=self._database)
        return self._channel.call(self._stub.Status, request).problem

    def dump(self) -> str:
        """Return the schema as text, with the migrations that made it. Read-only."""
        return to_text(self._refresh(), self.status())

    def load(self, text: str, *, where: str = "the text", actor: str = "", reason: str = "") -> int:
        """Give the server's empty database the schema of a text; see `everlog.migrations.load_schema`.
        Writes."""
        Metadata(actor, reason).check()
        arguments.text(text, "text", error=SchemaError)
        request = pb.LoadSchemaRequest(
            database=self._database, text=text, where=where, actor=actor, reason=reason
        )
        return self._channel.call(self._stub.Load, request, timeout_s=PLAN_S).schema_version

    def baseline(self, version: int, *, actor: str = "", reason: str = "") -> list[MigrationInfo]:
        """Record migrations of the server's folders as applied; see `everlog.migrations.baseline`. Writes."""
        Metadata(actor, reason).check()
        arguments.counted(version, "a version", error=MigrationError)
        request = pb.BaselineRequest(database=self._database, version=version, actor=actor, reason=reason)
        return [
            _info(one)
            for one in self._channel.call(self._stub.Baseline, request, timeout_s=PLAN_S).migrations
        ]

    def accept(
        self, versions: Sequence[int] = (), *, actor: str = "", reason: str = ""
    ) -> list[MigrationInfo]:
        """Accept edited folders of the server as applied; see `everlog.migrations.accept`. Writes."""
        Metadata(actor, reason).check()
        for version in versions:
            arguments.counted(version, "a version", error=MigrationError)
        request = pb.AcceptRequest(database=self._database, versions=versions, actor=actor, reason=reason)
        return [
            _info(one) for one in self._channel.call(self._stub.Accept, request, timeout_s=PLAN_S).migrations
        ]

    def restore_folders(
        self, versions: Sequence[int] = (), *, source: Source | None = None, force: bool = False
    ) -> list[Restored]:
        """Write folders here as the log of the server has them; see `everlog.migrations.restore_folders`.
        Existing files with rows of sealed tables are kept, because they cannot be compared without the keys.
        """
        request, stub = pb.FoldersRequest(database=self._database), self._stub
        found = [
            Ran(one.version, one.name, one.digest, list(one.files))
            for one in self._channel.stream(stub.Folders, request)
        ]
        return write_folders(found, source or self._source, versions, force=force)

    def proposals(self) -> list[Proposal]:
        """Return the proposals and their events, oldest first. Read-only."""
        request = pb.ProposalsRequest(database=self._database)
        return [from_message(one) for one in self._channel.call(self._stub.Proposals, request).proposals]

    def propose(self, *, actor: str = "", reason: str = "") -> Proposal | None:
        """Propose the pending migrations; see `Approval.propose`, `again`. Writes."""
        Metadata(actor, reason).check()
        request = pb.ProposeRequest(database=self._database, actor=actor, reason=reason)
        answer = self._channel.call(self._stub.Propose, request, timeout_s=PLAN_S)
        return from_message(answer.proposal) if answer.HasField("proposal") else None

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
        """Approve a proposal and let the server apply it; see `Approval.approve` and `run`. Writes.

        If the connection breaks meanwhile, the server continues.
        """
        Metadata(actor, reason).check()
        arguments.text(digest, "digest", error=MigrationError)
        request = pb.ApproveRequest(
            database=self._database,
            digest=digest,
            actor=actor,
            reason=reason,
            despite_errors=despite_errors,
        )
        stub = self._stub
        proposal = None
        for answer in self._channel.stream(stub.Approve, request):
            if answer.HasField("proposal"):
                first, proposal = proposal is None, from_message(answer.proposal)
                if first and approved is not None:
                    approved(proposal)
                continue
            at = answer.progress
            if at.finished and applied is not None:
                applied(MigrationInfo(at.version, at.name, State.APPLIED, seq=at.seq, actor=actor))
            elif not at.finished and progress is not None:
                progress(Progress(at.step, at.done, at.total or None))
        if proposal is None:
            raise UnavailableError(
                f"{self._channel.url}: expected the outcome of the approval, found no response",
                url=self._channel.url,
            )
        return proposal

    def reject(self, digest: str, *, actor: str = "", reason: str = "") -> Proposal:
        """Reject a proposal; see `Approval.reject`. Writes."""
        Metadata(actor, reason).check()
        arguments.text(digest, "digest", error=MigrationError)
        request = pb.RejectRequest(database=self._database, digest=digest, actor=actor, reason=reason)
        return from_message(self._channel.call(self._stub.Reject, request).proposal)

    def plan_rollback(self, count: int | None = None, *, to: int | None = None) -> list[PlannedRollback]:
        """Return what `rollback` would do with the same arguments. Read-only."""
        answer = self._channel.call(self._stub.PlanRollback, self._which(count, to), timeout_s=PLAN_S)
        return [
            PlannedRollback(one.version, one.name, list(map(_step, one.steps)), list(one.lost))
            for one in answer.migrations
        ]

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
        """Let the server roll back; see `everlog.migrations.rollback`. Writes."""
        Metadata(actor, reason).check()
        check_target(to, rate, least=0)
        request = self._which(count, to)
        request.actor, request.reason, request.rate = actor, reason, rate or 0
        stub = self._stub
        done: list[MigrationInfo] = []
        for answer in self._channel.stream(stub.Rollback, request):
            if answer.finished:
                info = MigrationInfo(
                    answer.version, answer.name, State.PENDING, answer.time_ns, answer.seq, actor=actor
                )
                done.append(info)
                if rolled_back is not None:
                    rolled_back(info)
            elif progress is not None:
                progress(Progress(answer.step, answer.done, answer.total or None))
        self._refresh()
        return done

    def _which(self, count: int | None, to: int | None) -> pb.RollbackRequest:
        check_which(count, to)
        return pb.RollbackRequest(database=self._database, count=count or 0, to=to)


def _estimate(one: pb.Estimate) -> Estimate:
    return Estimate(
        one.rows,
        one.seconds,
        one.waits_s,
        one.bytes,
        one.freed_bytes,
        one.free_bytes,
        list(one.twice),
        list(one.unknown),
        one.sampled,
    )


def _step(step: pb.PlannedStep) -> PlannedStep:
    return PlannedStep(step.text, step.instant, step.rows, step.problem)


def _info(info: pb.MigrationInfo) -> MigrationInfo:
    return MigrationInfo(
        info.version,
        info.name,
        State[pb.MigrationState.Name(info.state)],
        info.applied_ns,
        info.seq,
        info.actor,
        info.digest,
        info.folder_digest,
        info.late,
        info.started_ns,
        info.rows,
        info.held,
        info.returning,
        info.total,
        info.left_s,
        info.stopped,
        info.rolled_back_ns,
        info.prepared,
        info.decision_id,
        info.fence,
    )


def _decision(one: pb.Decision) -> Decision:
    state = DecisionState[pb.DecisionState.Name(one.state).removeprefix("DECISION_")]
    return Decision(
        one.decision_id,
        state,
        one.version,
        one.name,
        one.seq,
        one.time_ns,
        one.actor,
        one.fence,
        one.error,
    )
