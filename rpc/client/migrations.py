"""Remote migrations: the answers of the Migrations service as `everlog.migrations` gives them.

The server works with the folders that it was started with; those of the client play no part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from everlog.migrations.folder import SOURCE, Source
from everlog.migrations.plan import PlannedMigration, PlannedStep, check_target
from everlog.migrations.proposal import Proposal
from everlog.migrations.recorded import Ran, Restored, write_folders
from everlog.migrations.rollback import PlannedRollback, check_which
from everlog.migrations.status import MigrationInfo, State
from everlog.proto import migrations_pb2 as pb
from everlog.proto import migrations_pb2_grpc
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.messages import from_message
from everlog.store.errors import MigrationError, SchemaError, UnavailableError
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema import arguments
from everlog.store.tx.transaction import Metadata

PLAN_S = 600.0


def status(db: RemoteDatabase) -> list[MigrationInfo]:
    """All migrations, oldest first. Read-only."""
    request = pb.ListMigrationsRequest(database=db.channel.address.database)
    return [_info(one) for one in db.channel.call(_stub(db).List, request).migrations]


def differences(db: RemoteDatabase) -> dict[int, str]:
    """The diff of each migration that was edited after it ran. Read-only."""
    request = pb.ListMigrationsRequest(database=db.channel.address.database, diff=True)
    found = db.channel.call(_stub(db).List, request).migrations
    return {one.version: one.diff for one in found if one.diff}


def plan(
    db: RemoteDatabase, *, to: int | None = None, out_of_order: bool = False, try_rows: bool = False
) -> list[PlannedMigration]:
    """What `apply` would do with the same arguments. Read-only."""
    check_target(to, None)
    request = pb.PlanRequest(
        database=db.channel.address.database, to=to or 0, out_of_order=out_of_order, try_rows=try_rows
    )
    answer = db.channel.call(_stub(db).Plan, request, timeout_s=PLAN_S)
    return [PlannedMigration(one.version, one.name, list(map(_step, one.steps))) for one in answer.migrations]


def apply(
    db: RemoteDatabase,
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
    """Has the server apply what is pending; see `everlog.migrations.apply`.

    If the connection breaks on the way, what was applied stays, and the server goes on.
    """
    Metadata(actor, reason).check()
    check_target(to, rate)
    request = pb.ApplyRequest(
        database=db.channel.address.database,
        to=to or 0,
        out_of_order=out_of_order,
        hold=hold,
        rate=rate or 0,
        actor=actor,
        reason=reason,
    )
    stub, metadata = _stub(db), db.channel.metadata
    done: list[MigrationInfo] = []
    for answer in db.channel.stream(lambda: stub.Apply(request, metadata=metadata)):
        if answer.finished:
            info = MigrationInfo(answer.version, answer.name, State.APPLIED, seq=answer.seq, actor=actor)
            done.append(info)
            if applied is not None:
                applied(info)
        elif progress is not None:
            progress(Progress(answer.step, answer.done, answer.total or None))
    db.refresh_schema()
    return done


def complete(db: RemoteDatabase, *, actor: str = "", reason: str = "") -> MigrationInfo:
    """Ends the time of two versions; see `everlog.migrations.complete`."""
    Metadata(actor, reason).check()
    request = pb.CompleteRequest(database=db.channel.address.database, actor=actor, reason=reason)
    done = db.channel.call(_stub(db).Complete, request)
    db.refresh_schema()
    return MigrationInfo(done.version, done.name, State.APPLIED, done.time_ns, done.seq, actor)


def cancel(db: RemoteDatabase, *, actor: str = "", reason: str = "") -> MigrationInfo:
    """Stops what the server applies or rolls back, and gives it up; see `everlog.migrations.cancel`."""
    Metadata(actor, reason).check()
    request = pb.CancelRequest(database=db.channel.address.database, actor=actor, reason=reason)
    done = db.channel.call(_stub(db).Cancel, request, timeout_s=PLAN_S)
    db.refresh_schema()
    return MigrationInfo(done.version, done.name, State.PENDING, done.time_ns, done.seq, actor)


def problem(db: RemoteDatabase) -> str:
    """Why the server can neither propose nor apply the pending migrations; empty if it can. Read-only."""
    request = pb.MigrationStatusRequest(database=db.channel.address.database)
    return db.channel.call(_stub(db).Status, request).problem


def load_schema(
    db: RemoteDatabase, text: str, *, where: str = "the text", actor: str = "", reason: str = ""
) -> int:
    """Gives the server's empty database the schema of a text; see `everlog.migrations.load_schema`."""
    Metadata(actor, reason).check()
    arguments.text(text, "text", error=SchemaError)
    request = pb.LoadSchemaRequest(
        database=db.channel.address.database, text=text, where=where, actor=actor, reason=reason
    )
    return db.channel.call(_stub(db).Load, request, timeout_s=PLAN_S).schema_version


def baseline(db: RemoteDatabase, version: int, *, actor: str = "", reason: str = "") -> list[MigrationInfo]:
    """Records migrations of the server's folders as applied; see `everlog.migrations.baseline`."""
    Metadata(actor, reason).check()
    arguments.counted(version, "a version", error=MigrationError)
    request = pb.BaselineRequest(
        database=db.channel.address.database, version=version, actor=actor, reason=reason
    )
    return [_info(one) for one in db.channel.call(_stub(db).Baseline, request, timeout_s=PLAN_S).migrations]


def accept(
    db: RemoteDatabase, versions: Sequence[int] = (), *, actor: str = "", reason: str = ""
) -> list[MigrationInfo]:
    """Takes edited folders of the server for what ran, with a reason; see `everlog.migrations.accept`."""
    Metadata(actor, reason).check()
    for version in versions:
        arguments.counted(version, "a version", error=MigrationError)
    request = pb.AcceptRequest(
        database=db.channel.address.database, versions=versions, actor=actor, reason=reason
    )
    return [_info(one) for one in db.channel.call(_stub(db).Accept, request, timeout_s=PLAN_S).migrations]


def restore(
    db: RemoteDatabase, source: Source = SOURCE, versions: Sequence[int] = (), *, force: bool = False
) -> list[Restored]:
    """Write folders here as the log of the server has them; see `everlog.migrations.restore`. Files with
    rows of sealed tables that are there stay: whether they are as they ran is not known here."""
    request, stub = pb.FoldersRequest(database=db.channel.address.database), _stub(db)
    metadata = db.channel.metadata
    found = [
        Ran(one.version, one.name, one.digest, list(one.files))
        for one in db.channel.stream(lambda: stub.Folders(request, metadata=metadata))
    ]
    return write_folders(found, source, versions, force=force)


def proposals(db: RemoteDatabase) -> list[Proposal]:
    """What was proposed and what became of it, oldest first. Read-only."""
    request = pb.ProposalsRequest(database=db.channel.address.database)
    return [from_message(one) for one in db.channel.call(_stub(db).Proposals, request).proposals]


def propose(db: RemoteDatabase, *, actor: str = "", reason: str = "") -> Proposal | None:
    """Proposes what is pending; see `Approval.propose`, `again`."""
    Metadata(actor, reason).check()
    request = pb.ProposeRequest(database=db.channel.address.database, actor=actor, reason=reason)
    answer = db.channel.call(_stub(db).Propose, request, timeout_s=PLAN_S)
    return from_message(answer.proposal) if answer.HasField("proposal") else None


def approve(
    db: RemoteDatabase,
    digest: str,
    *,
    actor: str = "",
    reason: str = "",
    despite_errors: bool = False,
    progress: OnProgress | None = None,
    applied: Callable[[MigrationInfo], None] | None = None,
) -> Proposal:
    """Approves a proposal and has the server apply it; see `Approval.approve` and `run`.

    If the connection breaks on the way, the server goes on.
    """
    Metadata(actor, reason).check()
    arguments.text(digest, "digest", error=MigrationError)
    request = pb.ApproveRequest(
        database=db.channel.address.database,
        digest=digest,
        actor=actor,
        reason=reason,
        despite_errors=despite_errors,
    )
    stub, metadata = _stub(db), db.channel.metadata
    proposal = None
    for answer in db.channel.stream(lambda: stub.Approve(request, metadata=metadata)):
        if answer.HasField("proposal"):
            proposal = from_message(answer.proposal)
            continue
        at = answer.progress
        if at.finished and applied is not None:
            applied(MigrationInfo(at.version, at.name, State.APPLIED, seq=at.seq, actor=actor))
        elif not at.finished and progress is not None:
            progress(Progress(at.step, at.done, at.total or None))
    if proposal is None:
        raise UnavailableError(
            f"{db.url}: expected to be told what was approved, found no answer", url=db.url
        )
    return proposal


def reject(db: RemoteDatabase, digest: str, *, actor: str = "", reason: str = "") -> Proposal:
    """Rejects a proposal; see `Approval.reject`."""
    Metadata(actor, reason).check()
    arguments.text(digest, "digest", error=MigrationError)
    request = pb.RejectRequest(
        database=db.channel.address.database, digest=digest, actor=actor, reason=reason
    )
    return from_message(db.channel.call(_stub(db).Reject, request).proposal)


def plan_rollback(
    db: RemoteDatabase, count: int | None = None, *, to: int | None = None
) -> list[PlannedRollback]:
    """What `rollback` would do with the same arguments. Read-only."""
    answer = db.channel.call(_stub(db).PlanRollback, _which(db, count, to), timeout_s=PLAN_S)
    return [
        PlannedRollback(one.version, one.name, list(map(_step, one.steps)), list(one.lost))
        for one in answer.migrations
    ]


def rollback(
    db: RemoteDatabase,
    count: int | None = None,
    *,
    to: int | None = None,
    actor: str = "",
    reason: str = "",
    rate: float | None = None,
    progress: OnProgress | None = None,
    rolled_back: Callable[[MigrationInfo], None] | None = None,
) -> list[MigrationInfo]:
    """Has the server roll back; see `everlog.migrations.rollback`."""
    Metadata(actor, reason).check()
    check_target(to, rate, least=0)
    request = _which(db, count, to)
    request.actor, request.reason, request.rate = actor, reason, rate or 0
    stub, metadata = _stub(db), db.channel.metadata
    done: list[MigrationInfo] = []
    for answer in db.channel.stream(lambda: stub.Rollback(request, metadata=metadata)):
        if answer.finished:
            info = MigrationInfo(
                answer.version, answer.name, State.PENDING, answer.time_ns, answer.seq, actor=actor
            )
            done.append(info)
            if rolled_back is not None:
                rolled_back(info)
        elif progress is not None:
            progress(Progress(answer.step, answer.done, answer.total or None))
    db.refresh_schema()
    return done


def _which(db: RemoteDatabase, count: int | None, to: int | None) -> pb.RollbackRequest:
    check_which(count, to)
    return pb.RollbackRequest(database=db.channel.address.database, count=count or 0, to=to)


def _step(step: pb.PlannedStep) -> PlannedStep:
    return PlannedStep(step.text, step.instant, step.rows, step.problem)


def _stub(db: RemoteDatabase) -> migrations_pb2_grpc.MigrationsStub:
    return migrations_pb2_grpc.MigrationsStub(db.channel.grpc)


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
    )
