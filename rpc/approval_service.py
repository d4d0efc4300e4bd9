"""Approval service: the calls of the Migrations service with which people decide.

Proposals                 what the log tells, of any database
Propose Approve Reject    a database whose migrations wait for approval (`serve --migrate checked`)

Who decides is whose token the call came with (callers.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from everlog.migrations.approval import Approval
from everlog.migrations.proposal import Proposal, proposals
from everlog.migrations.status import MigrationInfo
from everlog.proto import migrations_pb2 as pb
from everlog.proto import migrations_pb2_grpc
from everlog.rpc.admin_service import sparing
from everlog.rpc.calls import Context
from everlog.rpc.hosting import Hosting
from everlog.rpc.proposals import to_message
from everlog.rpc.telling import Telling
from everlog.store.errors import MigrationError
from everlog.store.progress import Progress

STARTING_S = 10.0


class ApprovalService(migrations_pb2_grpc.MigrationsServicer):
    """See proto/migrations.proto."""

    _hosting: Hosting
    _approvals: Mapping[str, Approval]
    _starting: Mapping[str, asyncio.Future[None]]

    async def Proposals(self, request: pb.ProposalsRequest, context: Any) -> pb.ProposalsResponse:
        starting = self._starting.get(request.database)
        if starting is not None:  # it may be at work on the first
            await asyncio.wait([starting], timeout=STARTING_S)
        found = await self._hosting.read(self._proposals, request.database)
        return pb.ProposalsResponse(proposals=[to_message(one) for one in found])

    async def Propose(self, request: pb.ProposeRequest, context: Any) -> pb.ProposeResponse:
        approval, actor = self._approval(request.database), self._who(context, request.actor)
        made = await self._hosting.write(approval.propose, actor=actor, reason=request.reason, again=True)
        return pb.ProposeResponse(proposal=to_message(made) if made is not None else None)

    async def Approve(self, request: pb.ApproveRequest, context: Any) -> AsyncIterator[pb.ApproveResponse]:
        approval, actor = self._approval(request.database), self._who(context, request.actor)

        def run(telling: Telling[pb.ApproveResponse]) -> None:
            def progress(at: Progress) -> None:
                step = pb.ApplyResponse(step=at.step, done=at.done, total=at.total or 0)
                telling.passing(pb.ApproveResponse(progress=step))

            def applied(info: MigrationInfo) -> None:
                step = pb.ApplyResponse(version=info.version, name=info.name, finished=True, seq=info.seq)
                telling.tell(pb.ApproveResponse(progress=step))

            done = approval.approve_and_run(
                request.digest,
                actor=actor,
                reason=request.reason,
                despite_errors=request.despite_errors,
                approved=lambda one: telling.tell(pb.ApproveResponse(proposal=to_message(one))),
                progress=sparing(progress),
                applied=applied,
            )
            telling.tell(pb.ApproveResponse(proposal=to_message(done)))

        async for answer in self._hosting.told(run):
            yield answer

    async def Reject(self, request: pb.RejectRequest, context: Any) -> pb.RejectResponse:
        approval, actor = self._approval(request.database), self._who(context, request.actor)
        made = await self._hosting.write(approval.reject, request.digest, actor=actor, reason=request.reason)
        return pb.RejectResponse(proposal=to_message(made))

    def _who(self, context: Context, claimed: str) -> str:
        return self._hosting.callers.who(context, claimed)

    def _proposals(self, name: str) -> list[Proposal]:
        approval = self._approvals.get(name)
        return proposals(self._hosting.database(name)) if approval is None else approval.proposals()

    def _approval(self, name: str) -> Approval:
        self._hosting.database(name)
        approval = self._approvals.get(name)
        if approval is None:
            raise MigrationError(
                f"migrations of {name} are not approved here, but applied by whoever applies them; start the"
                " server with --migrate checked, and they wait for approval",
                database=name,
            )
        return approval
