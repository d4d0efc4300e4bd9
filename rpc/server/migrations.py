"""Migrations: the Migrations service of a server.

List, Status             the log's records, compared with the server's folders
Show                     the log's records, the server's folders, and the proposals
Plan, Apply              the folders that the server has for this database
Complete, Cancel         the log: the migration in progress
Prepare                  those folders, up to the vote; CommitPrepared and AbortPrepared need the log alone
PlanRollback, Rollback   the log, and those folders where rows go back through `down`
Load                     gives an empty database the schema of a text; needs no folders
Baseline                 records the server's folders for a database that has their schema already
Accept                   records edited folders of the server as those that were applied
Folders                  the applied folders, for a client that writes them to its disk
Proposals                recorded in the log, of any database
Propose Approve Reject   databases whose migrations require approval (`serve --migrate checked`)

Where migrations require approval, migrations/approval/approval.py decides which calls are refused, and for
which callers. The actor of a decision is the name of the call's token (server/auth.py).
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec

from everlog.migrations import cancel, complete
from everlog.migrations.approval.approval import Approval
from everlog.migrations.baseline import baseline, load_schema
from everlog.migrations.details import show
from everlog.migrations.plan import PlannedStep, plan
from everlog.migrations.prepared import Decision, abort_prepared, commit_prepared, prepare
from everlog.migrations.proposal import Proposal, check_reason, proposals
from everlog.migrations.recorded_folders import accept, ran
from everlog.migrations.rollback import plan_rollback, rollback
from everlog.migrations.runner import apply
from everlog.migrations.status import MigrationInfo, State, compare, differences, with_progress
from everlog.migrations.status import status as compare_with
from everlog.proto import migrations_pb2 as pb
from everlog.proto import migrations_pb2_grpc
from everlog.rpc.http2.grpc import Context
from everlog.rpc.server.admin import throttled
from everlog.rpc.server.host import Hosting, ResponseStream
from everlog.rpc.wire import message_of_details, to_message
from everlog.store.database import Database
from everlog.store.errors import MigrationError, SchemaError
from everlog.store.progress import Progress

STARTING_S = 10.0


def info_message(info: MigrationInfo, diff: str = "") -> pb.MigrationInfo:
    """Return a migration's state as a message."""
    return pb.MigrationInfo(
        version=info.version,
        name=info.name,
        state=pb.MigrationState.Value(info.state.name),
        applied_ns=info.applied_ns,
        seq=info.seq,
        digest=info.digest,
        folder_digest=info.folder_digest,
        late=info.late,
        started_ns=info.started_ns,
        rows=info.rows,
        diff=diff,
        actor=info.actor,
        held=info.held,
        returning=info.rolling_back,
        total=info.total,
        left_s=info.left_s,
        stopped=info.stopped,
        rolled_back_ns=info.rolled_back_ns,
        prepared=info.prepared,
        decision_id=info.decision_id,
        fence=info.fence,
    )


def decision_message(one: Decision) -> pb.Decision:
    """Return a decision as a message."""
    state = pb.DecisionState.Value(f"DECISION_{one.state.name}")
    return pb.Decision(**{**msgspec.structs.asdict(one), "state": state})


class Problems:
    """Why a migration in progress cannot continue (its folder is unusable), by the name of its database; for
    databases without approval. `on_change` is called when a problem is solved."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = dict(known)
        self.on_change: Callable[[], None] = lambda: None

    def of(self, name: str) -> str:
        """Return the problem of a database; empty if there is none."""
        return self._known.get(name, "")

    def solved(self, name: str) -> None:
        """Remove the problem of a database: its folders were used."""
        if self._known.pop(name, ""):
            self.on_change()


class MigrationsService(migrations_pb2_grpc.MigrationsServicer):
    """See proto/migrations.proto. `sources` names the package of each database's migrations. `approvals`
    belong to the databases whose migrations wait for approval; other databases may have `problems`."""

    def __init__(
        self,
        hosting: Hosting,
        sources: Mapping[str, str],
        approvals: Mapping[str, Approval],
        starting: Mapping[str, asyncio.Future[None]],
        problems: Problems,
    ) -> None:
        self._hosting = hosting
        self._problems = problems
        self._sources = dict(sources)
        self._approvals = dict(approvals)
        self._starting = dict(starting)

    async def List(self, request: pb.ListMigrationsRequest, context: object) -> pb.ListMigrationsResponse:
        infos = await self._hosting.read(self._infos, request.database)
        diffs = await self._hosting.read(self._diffs, request.database) if request.diff else {}
        return pb.ListMigrationsResponse(
            migrations=[info_message(info, diffs.get(info.version, "")) for info in infos]
        )

    async def Status(self, request: pb.MigrationStatusRequest, context: object) -> pb.MigrationStatusResponse:
        infos, problem = await self._hosting.read(self._known, request.database)
        counts = Counter(info.state for info in infos)
        approval = self._approvals.get(request.database)
        rules = approval.rules if approval is not None else None
        applied = [info.version for info in infos if info.state is not State.PENDING]
        return pb.MigrationStatusResponse(
            version=max(applied, default=0),
            applied=counts[State.APPLIED],
            pending=counts[State.PENDING],
            edited=counts[State.EDITED],
            missing=counts[State.MISSING],
            ahead=counts[State.AHEAD],
            building=counts[State.BUILDING],
            problem=problem,
            checked=rules is not None,
            approvers=sorted(rules.approvers) if rules else (),
            approve_own=rules is not None and rules.own,
        )

    async def Show(self, request: pb.ShowMigrationRequest, context: object) -> pb.ShowMigrationResponse:
        db, source = self._hosting.database(request.database), self._sources.get(request.database)
        found = await self._hosting.long_read(
            lambda: show(db, request.version, source, digest=request.digest)
        )
        return message_of_details(found)

    async def Plan(self, request: pb.PlanRequest, context: object) -> pb.PlanResponse:
        db, source = self._hosting.database(request.database), self._source(request.database)
        late = request.out_of_order
        planned = await self._hosting.long_read(
            lambda: plan(
                db,
                source,
                to=request.to or None,
                out_of_order=late,
                try_rows=request.try_rows,
                prepare=request.prepare,
                progress=self._hosting.check_going,
            )
        )
        return pb.PlanResponse(
            migrations=[
                pb.PlannedMigration(
                    version=one.version,
                    name=one.name,
                    steps=map(_step, one.steps),
                    estimate=pb.Estimate(**msgspec.structs.asdict(one.estimate)) if one.estimate else None,
                )
                for one in planned
            ]
        )

    async def Apply(self, request: pb.ApplyRequest, context: Any) -> AsyncIterator[pb.ApplyResponse]:
        db, source = self._hosting.database(request.database), self._source(request.database)
        actor = self._hosting.auth.who(context, request.actor)

        def run(responses: ResponseStream[pb.ApplyResponse]) -> None:
            def progress(at: Progress) -> None:
                responses.send_progress(pb.ApplyResponse(step=at.step, done=at.done, total=at.total or 0))

            def applied(info: MigrationInfo) -> None:
                responses.send(
                    pb.ApplyResponse(version=info.version, name=info.name, finished=True, seq=info.seq)
                )

            with self._allowed("up", request.database, actor, request.reason):
                apply(
                    db,
                    source,
                    to=request.to or None,
                    out_of_order=request.out_of_order,
                    hold=request.hold,
                    rate=request.rate or None,
                    actor=actor,
                    reason=request.reason,
                    progress=throttled(progress),
                    applied=applied,
                )
            self._problems.solved(request.database)

        async for answer in self._hosting.stream(run):
            yield answer

    async def PlanRollback(self, request: pb.RollbackRequest, context: object) -> pb.PlanRollbackResponse:
        db, which = self._hosting.database(request.database), _which(request)
        planned = await self._hosting.long_read(
            lambda: plan_rollback(
                db, which["count"], to=which["to"], source=self._sources.get(request.database)
            )
        )
        return pb.PlanRollbackResponse(
            migrations=[
                pb.PlannedRollback(
                    version=one.version, name=one.name, steps=map(_step, one.steps), lost=one.lost
                )
                for one in planned
            ]
        )

    async def Rollback(self, request: pb.RollbackRequest, context: Any) -> AsyncIterator[pb.RollbackResponse]:
        db, which = self._hosting.database(request.database), _which(request)
        actor = self._hosting.auth.who(context, request.actor)

        def run(responses: ResponseStream[pb.RollbackResponse]) -> None:
            def progress(at: Progress) -> None:
                responses.send_progress(pb.RollbackResponse(step=at.step, done=at.done, total=at.total or 0))

            def rolled_back(info: MigrationInfo) -> None:
                responses.send(
                    pb.RollbackResponse(
                        version=info.version,
                        name=info.name,
                        finished=True,
                        seq=info.seq,
                        time_ns=info.applied_ns,
                    )
                )

            with self._allowed("rollback", request.database, actor, request.reason):
                rollback(
                    db,
                    which["count"],
                    to=which["to"],
                    source=self._sources.get(request.database),
                    actor=actor,
                    reason=request.reason,
                    rate=request.rate or None,
                    progress=throttled(progress),
                    rolled_back=rolled_back,
                )
            self._problems.solved(request.database)

        async for answer in self._hosting.stream(run):
            yield answer

    async def Complete(self, request: pb.CompleteRequest, context: Any) -> pb.CompleteResponse:
        db = self._hosting.database(request.database)
        actor = self._hosting.auth.who(context, request.actor)

        def run() -> MigrationInfo:
            with self._allowed("complete", request.database, actor, request.reason):
                return complete(db, actor=actor, reason=request.reason)

        done = await self._hosting.long_write(run)
        return pb.CompleteResponse(
            version=done.version, name=done.name, seq=done.seq, time_ns=done.applied_ns
        )

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:
        db = self._hosting.database(request.database)
        actor = self._hosting.auth.who(context, request.actor)
        approval = self._approvals.get(request.database)
        call = approval.cancel if approval is not None else functools.partial(cancel, db)
        done = await self._hosting.long_write(call, actor=actor, reason=request.reason)
        self._problems.solved(request.database)
        return pb.CancelResponse(version=done.version, name=done.name, seq=done.seq, time_ns=done.applied_ns)

    # migrations that wait for a decision

    async def Prepare(self, request: pb.PrepareRequest, context: Any) -> AsyncIterator[pb.PrepareResponse]:
        db, source = self._hosting.database(request.database), self._source(request.database)
        actor = self._hosting.auth.who(context, request.actor)

        def run(responses: ResponseStream[pb.PrepareResponse]) -> None:
            def progress(at: Progress) -> None:
                responses.send_progress(pb.PrepareResponse(step=at.step, done=at.done, total=at.total or 0))

            with self._allowed("prepare", request.database, actor, request.reason):
                done = prepare(
                    db,
                    request.decision_id,
                    source,
                    fence=request.fence,
                    to=request.to or None,
                    hold=request.hold,
                    rate=request.rate or None,
                    actor=actor,
                    reason=request.reason,
                    progress=throttled(progress),
                )
            self._problems.solved(request.database)
            responses.send(pb.PrepareResponse(decision=decision_message(done)))

        async for answer in self._hosting.stream(run):
            yield answer

    async def CommitPrepared(
        self, request: pb.CommitPreparedRequest, context: Any
    ) -> pb.CommitPreparedResponse:
        done = await self._decide("commit-prepared", commit_prepared, request, context)
        return pb.CommitPreparedResponse(decision=decision_message(done))

    async def AbortPrepared(self, request: pb.AbortPreparedRequest, context: Any) -> pb.AbortPreparedResponse:
        done = await self._decide("abort-prepared", abort_prepared, request, context)
        return pb.AbortPreparedResponse(decision=decision_message(done))

    async def _decide(
        self,
        verb: str,
        decide: Callable[..., Decision],
        request: pb.CommitPreparedRequest | pb.AbortPreparedRequest,
        context: Any,
    ) -> Decision:
        db = self._hosting.database(request.database)
        actor = self._hosting.auth.who(context, request.actor)

        def run() -> Decision:
            with self._allowed(verb, request.database, actor, request.reason):
                done = decide(
                    db, request.decision_id, fence=request.fence, actor=actor, reason=request.reason
                )
            self._problems.solved(request.database)
            return done

        return await self._hosting.long_write(run)

    # recording without running

    async def Load(self, request: pb.LoadSchemaRequest, context: Any) -> pb.LoadSchemaResponse:
        db = self._hosting.database(request.database)
        actor = self._hosting.auth.who(context, request.actor)

        def run() -> int:
            where = request.where or "the text"
            with self._allowed("load", request.database, actor, request.reason):
                return load_schema(db, request.text, where=where, actor=actor, reason=request.reason)

        return pb.LoadSchemaResponse(schema_version=await self._hosting.long_write(run))

    async def Baseline(self, request: pb.BaselineRequest, context: Any) -> pb.BaselineResponse:
        db, source = self._hosting.database(request.database), self._source(request.database)
        actor = self._hosting.auth.who(context, request.actor)

        def run() -> list[MigrationInfo]:
            with self._allowed("baseline", request.database, actor, request.reason):
                return baseline(db, request.version, source, actor=actor, reason=request.reason)

        found = await self._hosting.long_write(run)
        return pb.BaselineResponse(migrations=[info_message(info) for info in found])

    async def Accept(self, request: pb.AcceptRequest, context: Any) -> pb.AcceptResponse:
        db, source = self._hosting.database(request.database), self._source(request.database)
        actor, reason = self._hosting.auth.who(context, request.actor), request.reason

        def run() -> list[MigrationInfo]:
            check_reason(reason)
            with self._allowed("accept", request.database, actor, reason):
                return accept(db, source, list(request.versions), actor=actor, reason=reason)

        found = await self._hosting.long_write(run)
        return pb.AcceptResponse(migrations=[info_message(info) for info in found])

    async def Folders(self, request: pb.FoldersRequest, context: Any) -> AsyncIterator[pb.FoldersResponse]:
        for one in await self._hosting.read(ran, self._hosting.database(request.database)):
            yield pb.FoldersResponse(version=one.version, name=one.name, digest=one.digest, files=one.sources)

    # approval

    async def Proposals(self, request: pb.ProposalsRequest, context: Any) -> pb.ProposalsResponse:
        starting = self._starting.get(request.database)
        if starting is not None:  # the first proposal may still be in preparation
            await asyncio.wait([starting], timeout=STARTING_S)
        found = await self._hosting.read(self._proposals, request.database)
        return pb.ProposalsResponse(proposals=[to_message(one) for one in found])

    async def Propose(self, request: pb.ProposeRequest, context: Any) -> pb.ProposeResponse:
        approval, actor = self._approval(request.database), self._who(context, request.actor)
        write = self._hosting.long_write
        made = await write(approval.propose, actor=actor, reason=request.reason, again=True)
        return pb.ProposeResponse(proposal=to_message(made) if made is not None else None)

    async def Approve(self, request: pb.ApproveRequest, context: Any) -> AsyncIterator[pb.ApproveResponse]:
        approval, actor = self._approval(request.database), self._who(context, request.actor)

        def run(responses: ResponseStream[pb.ApproveResponse]) -> None:
            def progress(at: Progress) -> None:
                step = pb.ApplyResponse(step=at.step, done=at.done, total=at.total or 0)
                responses.send_progress(pb.ApproveResponse(progress=step))

            def applied(info: MigrationInfo) -> None:
                step = pb.ApplyResponse(version=info.version, name=info.name, finished=True, seq=info.seq)
                responses.send(pb.ApproveResponse(progress=step))

            done = approval.approve_and_run(
                request.digest,
                actor=actor,
                reason=request.reason,
                despite_errors=request.despite_errors,
                approved=lambda one: responses.send(pb.ApproveResponse(proposal=to_message(one))),
                progress=throttled(progress),
                applied=applied,
            )
            responses.send(pb.ApproveResponse(proposal=to_message(done)))

        async for answer in self._hosting.stream(run):
            yield answer

    async def Reject(self, request: pb.RejectRequest, context: Any) -> pb.RejectResponse:
        approval, actor = self._approval(request.database), self._who(context, request.actor)
        write = self._hosting.long_write
        made = await write(approval.reject, request.digest, actor=actor, reason=request.reason)
        return pb.RejectResponse(proposal=to_message(made))

    # shared by these calls

    def _infos(self, name: str) -> list[MigrationInfo]:
        db: Database = self._hosting.database(name)
        source = self._sources.get(name)
        if source is None:
            return with_progress(db, compare(db.migration_records(), ()))
        try:
            return compare_with(db, source)
        except SchemaError:
            if not self._problem(name):
                raise
            return with_progress(db, compare(db.migration_records(), ()))  # `problem` says why

    def _known(self, name: str) -> tuple[list[MigrationInfo], str]:
        """Return the migrations of a database, and why pending ones cannot be applied."""
        try:
            return self._infos(name), self._problem(name)
        except SchemaError as error:
            db = self._hosting.database(name)
            return with_progress(db, compare(db.migration_records(), ())), str(error)

    def _problem(self, name: str) -> str:
        approval = self._approvals.get(name)
        return approval.problem if approval is not None else self._problems.of(name)

    def _diffs(self, name: str) -> dict[int, str]:
        source = self._sources.get(name)
        return differences(self._hosting.database(name), source) if source else {}

    def _allowed(self, verb: str, name: str, actor: str, reason: str) -> AbstractContextManager[None]:
        """Return a context for the call. Raises MigrationError if migrations wait for approval and `actor`
        may not make this call."""
        approval = self._approvals.get(name)
        if approval is None:
            return nullcontext()
        return approval.allowed(verb, actor=actor, reason=reason)

    def _source(self, name: str) -> str:
        source = self._sources.get(name)
        if source is None:
            raise MigrationError(
                f"this server was started without the migrations of {name}; start it with them"
                " (`everlog serve --migrations …`), or apply them where the database is",
                database=name,
            )
        return source

    def _who(self, context: Context, claimed: str) -> str:
        return self._hosting.auth.who(context, claimed)

    def _proposals(self, name: str) -> list[Proposal]:
        approval = self._approvals.get(name)
        return proposals(self._hosting.database(name)) if approval is None else approval.proposals()

    def _approval(self, name: str) -> Approval:
        self._hosting.database(name)
        approval = self._approvals.get(name)
        if approval is None:
            raise MigrationError(
                f"migrations of {name} need no approval on this server; to require it, start the server with"
                " --migrate checked",
                database=name,
            )
        return approval


def _which(request: pb.RollbackRequest) -> dict[str, int | None]:
    """Return which migrations a request rolls back."""
    return {"count": request.count or None, "to": request.to if request.HasField("to") else None}


def _step(step: PlannedStep) -> pb.PlannedStep:
    return pb.PlannedStep(text=step.text, instant=step.instant, rows=step.rows, problem=step.problem)
