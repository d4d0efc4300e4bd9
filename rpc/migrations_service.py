"""Migrations service: those that the server was started with, and those that the log knows.

List, Status             the log's records beside the folders
Plan, Apply              the folders that the server was given for this database
Complete, Cancel         the log: what is under way
PlanRollback, Rollback   the log, and those folders where rows go back through `down`

Load, Baseline           adopt_service.py
Proposals … Reject       approval_service.py

Where migrations wait for approval, `everlog.migrations.besides` says which of them are refused, and to
whom.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from everlog.migrations import cancel, complete
from everlog.migrations.approval import Approval
from everlog.migrations.difference import differences
from everlog.migrations.plan import PlannedStep, plan
from everlog.migrations.rollback import plan_rollback, rollback
from everlog.migrations.runner import apply
from everlog.migrations.status import MigrationInfo, State, compare, with_progress
from everlog.migrations.status import status as compare_with
from everlog.proto import migrations_pb2 as pb
from everlog.rpc.admin_service import sparing
from everlog.rpc.adopt_service import AdoptService, info_message
from everlog.rpc.approval_service import ApprovalService
from everlog.rpc.hosting import Hosting
from everlog.rpc.telling import Telling
from everlog.store.database import Database
from everlog.store.errors import SchemaError
from everlog.store.progress import Progress


class Problems:
    """Why a migration under way cannot go on, by the name of its database, where nobody approves migrations:
    its folder cannot be used. `on_change` is called when one is mended."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = dict(known)
        self.on_change: Callable[[], None] = lambda: None

    def of(self, name: str) -> str:
        """Empty: there is none."""
        return self._known.get(name, "")

    def mended(self, name: str) -> None:
        """The folders were used, so they can be."""
        if self._known.pop(name, ""):
            self.on_change()


class MigrationsService(ApprovalService, AdoptService):
    """See proto/migrations.proto. `sources` names the package of each database's migrations, and
    `approvals` decide which of them are applied, where it is not whoever calls; elsewhere there may be
    `problems`."""

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
        infos = await self._hosting.read(self._infos, request.database)
        counts = Counter(info.state for info in infos)
        applied = [info.version for info in infos if info.state is not State.PENDING]
        return pb.MigrationStatusResponse(
            version=max(applied, default=0),
            applied=counts[State.APPLIED],
            pending=counts[State.PENDING],
            edited=counts[State.EDITED],
            missing=counts[State.MISSING],
            ahead=counts[State.AHEAD],
            building=counts[State.BUILDING],
            problem=self._problem(request.database),
        )

    async def Plan(self, request: pb.PlanRequest, context: object) -> pb.PlanResponse:
        db, source = self._hosting.database(request.database), self._source(request.database)
        late = request.out_of_order
        planned = await self._hosting.survey(
            lambda: plan(
                db,
                source,
                to=request.to or None,
                out_of_order=late,
                try_rows=request.try_rows,
                progress=self._hosting.check_going,
            )
        )
        return pb.PlanResponse(
            migrations=[
                pb.PlannedMigration(version=one.version, name=one.name, steps=map(_step, one.steps))
                for one in planned
            ]
        )

    async def Apply(self, request: pb.ApplyRequest, context: Any) -> AsyncIterator[pb.ApplyResponse]:
        db, source = self._hosting.database(request.database), self._source(request.database)
        actor = self._hosting.callers.who(context, request.actor)

        def run(telling: Telling[pb.ApplyResponse]) -> None:
            def progress(at: Progress) -> None:
                telling.passing(pb.ApplyResponse(step=at.step, done=at.done, total=at.total or 0))

            def applied(info: MigrationInfo) -> None:
                telling.tell(
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
                    progress=sparing(progress),
                    applied=applied,
                )
            self._problems.mended(request.database)

        async for answer in self._hosting.told(run):
            yield answer

    async def PlanRollback(self, request: pb.RollbackRequest, context: object) -> pb.PlanRollbackResponse:
        db, which = self._hosting.database(request.database), _which(request)
        planned = await self._hosting.survey(
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
        actor = self._hosting.callers.who(context, request.actor)

        def run(telling: Telling[pb.RollbackResponse]) -> None:
            def progress(at: Progress) -> None:
                telling.passing(pb.RollbackResponse(step=at.step, done=at.done, total=at.total or 0))

            def rolled_back(info: MigrationInfo) -> None:
                telling.tell(
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
                    progress=sparing(progress),
                    rolled_back=rolled_back,
                )
            self._problems.mended(request.database)

        async for answer in self._hosting.told(run):
            yield answer

    async def Complete(self, request: pb.CompleteRequest, context: Any) -> pb.CompleteResponse:
        db = self._hosting.database(request.database)
        actor = self._hosting.callers.who(context, request.actor)

        def run() -> MigrationInfo:
            with self._allowed("complete", request.database, actor, request.reason):
                return complete(db, actor=actor, reason=request.reason)

        done = await self._hosting.write(run)
        return pb.CompleteResponse(
            version=done.version, name=done.name, seq=done.seq, time_ns=done.applied_ns
        )

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:
        db = self._hosting.database(request.database)
        actor = self._hosting.callers.who(context, request.actor)
        approval = self._approvals.get(request.database)
        call = approval.cancel if approval is not None else functools.partial(cancel, db)
        done = await self._hosting.write(call, actor=actor, reason=request.reason)
        self._problems.mended(request.database)
        return pb.CancelResponse(version=done.version, name=done.name, seq=done.seq, time_ns=done.applied_ns)

    def _infos(self, name: str) -> list[MigrationInfo]:
        db: Database = self._hosting.database(name)
        source = self._sources.get(name)
        if source is None:
            return with_progress(db, compare(db.migrations(), ()))
        try:
            return compare_with(db, source)
        except SchemaError:
            if not self._problem(name):
                raise
            return with_progress(db, compare(db.migrations(), ()))  # `problem` says why

    def _problem(self, name: str) -> str:
        approval = self._approvals.get(name)
        return approval.problem if approval is not None else self._problems.of(name)

    def _diffs(self, name: str) -> dict[int, str]:
        source = self._sources.get(name)
        return differences(self._hosting.database(name), source) if source else {}


def _which(request: pb.RollbackRequest) -> dict[str, int | None]:
    """What a request says is to be rolled back."""
    return {"count": request.count or None, "to": request.to if request.HasField("to") else None}


def _step(step: PlannedStep) -> pb.PlannedStep:
    return pb.PlannedStep(text=step.text, instant=step.instant, rows=step.rows, problem=step.problem)
