"""Fleet: the Fleet service: streams of processes with members, and the calls of operators.

    process ═ Join ═▶ ServedLink ─ reports, in a thread that may write ─▶ Hub
                           ◀─ a queue ─ orders, from any thread ─────────┘

Invariants
  (1) a stream that is silent for SILENT_S is ended: its members are not connected;
  (2) what is queued for a process is bounded: orders are repeated, so those that do not fit are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from everlog.fleet.approvals import ProposedPlan
from everlog.fleet.hub import Hub
from everlog.fleet.planner import SURVEY_S, Surveying
from everlog.fleet.protocol import Order, Run
from everlog.fleet.selector import Selector
from everlog.fleet.tasks import MemberTask
from everlog.fleet.waves import DEFAULT, Gate
from everlog.proto import fleet_pb2 as pb
from everlog.proto import fleet_pb2_grpc, log_pb2
from everlog.rpc.fleet import (
    answer_of,
    message_of_order,
    message_of_plan,
    message_of_problem,
    message_of_rollout,
    message_of_run,
    message_of_status,
    message_of_task,
    report_of,
    target_of,
)
from everlog.rpc.server.host import Hosting
from everlog.store.errors import ClosedError, MigrationError, RowError

SILENT_S = 30.0
QUEUED_MAX = 256  # messages for one process
INTERVAL_S, INTERVAL_MIN_S = 0.5, 0.1  # between two messages of Watch
DEADLINE_MAX_S = 366 * 86400.0
SURVEYING_S = 0.05  # between two looks at a survey
WAITS_SHOWN = 10  # names in a message about its progress


class ServedLink:
    """The stream of a process, as the hub uses it. Made in the event loop."""

    def __init__(self, process: bytes, peer: str) -> None:
        self.process = process
        self.peer = peer
        self.left = False
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[pb.JoinResponse] = asyncio.Queue(QUEUED_MAX)
        self._ended: asyncio.Future[None] = self._loop.create_future()
        # It may end after its call: nobody waits for the error then.
        self._ended.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    def send(
        self,
        *,
        orders: Sequence[Order] = (),
        tasks: Sequence[MemberTask] = (),
        known: Sequence[log_pb2.Cursor] = (),
        refused: Sequence[tuple[bytes, str]] = (),
    ) -> None:
        """Queue a message; for any thread."""
        if orders or tasks or known or refused:
            message = pb.JoinResponse(
                orders=[*map(message_of_order, orders), *map(message_of_task, tasks)],
                known=known,
                refused=[pb.MemberRefusal(member=member, why=why) for member, why in refused],
            )
            self._call(lambda: self._put(message))

    def end(self, why: str) -> None:
        """End the stream; for any thread."""
        self.fail(ClosedError(why))

    def fail(self, error: BaseException) -> None:
        """End the stream with an error; for any thread."""
        self._call(lambda: None if self._ended.done() else self._ended.set_exception(error))

    def _call(self, fn: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the server has stopped
            self._loop.call_soon_threadsafe(fn)

    def _put(self, message: pb.JoinResponse) -> None:
        with contextlib.suppress(asyncio.QueueFull):  # it is repeated
            self._queue.put_nowait(message)

    async def next(self) -> pb.JoinResponse:
        """Return the next message. Raises the error with which the stream ends."""
        getting = asyncio.ensure_future(self._queue.get())
        try:
            await asyncio.wait((getting, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if self._ended.done():
                self._ended.result()
            return getting.result()
        finally:
            getting.cancel()


class FleetService(fleet_pb2_grpc.FleetServicer):
    """See proto/fleet.proto. `hubs`: of the databases that are the ledger of a fleet, by name."""

    def __init__(self, hosting: Hosting, hubs: Mapping[str, Hub]) -> None:
        self._hosting = hosting
        self._hubs = dict(hubs)
        self._links: set[ServedLink] = set()

    def drain(self) -> None:
        """End all streams of processes, which connect again later."""
        for link in self._links:
            link.end("the server is stopping; connect again later")

    async def Join(
        self, requests: AsyncIterator[pb.JoinRequest], context: Any
    ) -> AsyncIterator[pb.JoinResponse]:
        first = await anext(requests, None)
        if first is None:
            raise RowError("expected the reports of a process, found an empty stream")
        hub = self._hub(first.database)
        if not first.process:
            raise RowError("expected the bytes that identify the process, found none")
        link = ServedLink(first.process, context.peer)
        self._links.add(link)
        reading = asyncio.ensure_future(self._read(hub, link, first, requests))
        try:
            while True:
                yield await link.next()
        finally:
            self._links.discard(link)
            reading.cancel()
            hub.leave(link)

    async def _read(
        self, hub: Hub, link: ServedLink, first: pb.JoinRequest, requests: AsyncIterator[pb.JoinRequest]
    ) -> None:
        """Give the hub what a process reports, until its stream ends."""
        request: pb.JoinRequest | None = first
        try:
            while request is not None:
                if request.reports or request.left or request.answers or request is first:
                    reports = [report_of(one) for one in request.reports]
                    answers = [answer_of(one) for one in request.answers]
                    await self._hosting.write(hub.receive, link, reports, list(request.left), answers)
                async with asyncio.timeout(SILENT_S):
                    request = await anext(requests, None)
            link.end("the process has left")
        except TimeoutError:
            link.end(f"the process has sent nothing for {SILENT_S:g} s; connect again")
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  it ends the call
            link.fail(error)

    async def Status(self, request: pb.FleetStatusRequest, context: Any) -> pb.FleetStatusResponse:
        hub = self._hub(request.database)
        return await self._hosting.read(lambda: message_of_status(hub.status()))

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.WatchResponse]:
        hub = self._hub(request.database)
        interval_s = max(INTERVAL_MIN_S, request.interval_ms / 1e3 if request.interval_ms else INTERVAL_S)
        members: dict[bytes, pb.FleetMember] = {}
        runs: dict[bytes, pb.FleetRun] = {}
        said: tuple[int, str] | None = None
        ended: list[pb.FleetEndedRun] = []
        changes = -1
        while True:
            self._hosting.check_going()
            if hub.changes != changes:
                changes = hub.changes
                now = await self._hosting.read(lambda: message_of_status(hub.status()))
                found = {one.report.at.database: one for one in now.members}
                found_runs = {one.decision_id: one for one in now.runs}
                response = pb.WatchResponse(
                    epoch=now.epoch,
                    problem=now.problem,
                    members=[one for key, one in found.items() if members.get(key) != one],
                    forgotten=[key for key in members if key not in found],
                    runs=[one for key, one in found_runs.items() if runs.get(key) != one],
                    dropped=[key for key in runs if key not in found_runs],
                    ended=now.ended if now.ended != ended else [],
                    checked=now.checked,
                )
                if (
                    response.members
                    or response.forgotten
                    or response.runs
                    or response.dropped
                    or response.ended
                    or said != (now.epoch, now.problem)
                ):
                    yield response
                members, runs, said = found, found_runs, (now.epoch, now.problem)
                ended = list(now.ended)
            await asyncio.sleep(interval_s)

    async def Survey(
        self, request: pb.FleetSurveyRequest, context: Any
    ) -> AsyncIterator[pb.FleetSurveyResponse]:
        hub, selector = self._hub(request.database), Selector.parse(request.selector)
        surveying = hub.planner.survey(selector, hold=request.hold, deadline_s=_survey_s(request.deadline_s))
        async for progress in self._surveyed(hub, surveying):
            yield pb.FleetSurveyResponse(progress=progress)
        found = surveying.result()
        for one in found.surveys:
            yield pb.FleetSurveyResponse(surveys=[one.encode()])
        yield pb.FleetSurveyResponse(problems=map(message_of_problem, found.problems), finished=True)

    async def _surveyed(self, hub: Hub, surveying: Surveying) -> AsyncIterator[pb.FleetSurveying]:
        """Yield the progress of a survey, each time that it has changed, until it is over."""
        asked, said = surveying.asked, -1
        try:
            while True:
                over, answered = asked.over, len(asked.answers)
                if answered != said:
                    said = answered
                    yield pb.FleetSurveying(
                        answered=answered, members=asked.total, waits_for=surveying.waits_for[:WAITS_SHOWN]
                    )
                if over:
                    return
                self._hosting.check_going()
                await asyncio.sleep(SURVEYING_S)
        finally:
            hub.dismiss(asked)

    async def Plan(self, request: pb.FleetPlanRequest, context: Any) -> AsyncIterator[pb.FleetPlanResponse]:
        hub, actor = self._hub(request.database), self._actor(request, context)
        selector = Selector.parse(request.selector)
        surveying = hub.planner.survey(selector, hold=request.hold, deadline_s=_survey_s(request.survey_s))
        async for progress in self._surveyed(hub, surveying):
            yield pb.FleetPlanResponse(progress=progress)
        try:
            made = await self._hosting.write(
                hub.planner.propose,
                surveying.result(),
                selector,
                request.to or None,
                hold=request.hold,
                unison=not request.waves,
                actor=actor,
                reason=request.reason,
            )
        except MigrationError as error:
            refused = error.facts.get("refusals")
            if not refused:
                raise
            yield pb.FleetPlanResponse(refusal=str(error), problems=map(message_of_problem, refused))
            return
        yield pb.FleetPlanResponse(plan=message_of_plan(made))

    async def Plans(
        self, request: pb.FleetPlansRequest, context: object
    ) -> AsyncIterator[pb.FleetPlansResponse]:
        approvals = self._hub(request.database).approvals
        if request.digest:
            found = [await self._hosting.read(approvals.find, request.digest)]
        else:
            found = await self._hosting.read(approvals.proposals)
        for one in found[-request.limit :] if request.limit else found:
            yield pb.FleetPlansResponse(plan=message_of_plan(one))

    async def Approve(
        self, request: pb.FleetApproveRequest, context: Any
    ) -> AsyncIterator[pb.FleetApproveResponse]:
        hub, by = (
            self._hub(request.database),
            {"actor": self._actor(request, context), "reason": request.reason},
        )
        found = await self._hosting.read(lambda: hub.approvals.check_approvable(request.digest, **by))
        surveying = self._survey_of(hub, found, request.survey_s)
        async for progress in self._surveyed(hub, surveying):
            yield pb.FleetApproveResponse(progress=progress)
        made = await self._hosting.write(
            hub.planner.approve,
            found.digest.hex(),
            surveying.result(),
            despite_errors=request.despite_errors,
            **by,
        )
        yield pb.FleetApproveResponse(plan=message_of_plan(made))

    async def Reject(self, request: pb.FleetRejectRequest, context: Any) -> pb.FleetRejectResponse:
        hub, actor = self._hub(request.database), self._actor(request, context)
        made = await self._hosting.write(
            hub.approvals.reject, request.digest, actor=actor, reason=request.reason
        )
        return pb.FleetRejectResponse(plan=message_of_plan(made))

    async def Upgrade(
        self, request: pb.FleetUpgradeRequest, context: Any
    ) -> AsyncIterator[pb.FleetUpgradeResponse]:
        hub, actor = self._hub(request.database), self._actor(request, context)
        _check_run(request.decision_id, request.deadline_s)
        found = await self._hosting.read(hub.planner.check_startable, request.digest)
        surveying = self._survey_of(hub, found, request.survey_s)
        async for progress in self._surveyed(hub, surveying):
            yield pb.FleetUpgradeResponse(progress=progress)
        run = await self._hosting.write(
            hub.planner.upgrade,
            found,
            surveying.result(),
            request.decision_id,
            deadline_s=request.deadline_s,
            actor=actor,
            reason=request.reason,
        )
        yield pb.FleetUpgradeResponse(run=message_of_run(run))

    async def StartRollout(
        self, request: pb.StartRolloutRequest, context: Any
    ) -> AsyncIterator[pb.StartRolloutResponse]:
        hub, actor = self._hub(request.database), self._actor(request, context)
        _check_deadline(request.deadline_s)
        gate = Gate(_pause_ns(request.pause_s), request.check, request.approval)
        found = await self._hosting.read(lambda: hub.planner.check_startable(request.digest, unison=False))
        surveying = self._survey_of(hub, found, request.survey_s)
        async for progress in self._surveyed(hub, surveying):
            yield pb.StartRolloutResponse(progress=progress)
        begun = await self._hosting.write(
            hub.planner.roll_out,
            found,
            surveying.result(),
            list(request.waves) or DEFAULT,
            gate=gate,
            deadline_s=request.deadline_s,
            actor=actor,
            reason=request.reason,
        )
        yield pb.StartRolloutResponse(rollout=message_of_rollout(begun))

    async def Rollouts(
        self, request: pb.RolloutsRequest, context: object
    ) -> AsyncIterator[pb.RolloutsResponse]:
        hub = self._hub(request.database)
        found = hub.planner.rollouts()
        if request.digest:
            digest = (await self._hosting.read(hub.approvals.find, request.digest)).digest
            found = [one for one in found if one.digest == digest]
        for one in found:
            yield pb.RolloutsResponse(rollout=message_of_rollout(one))

    async def ApproveWave(self, request: pb.ApproveWaveRequest, context: Any) -> pb.ApproveWaveResponse:
        hub, actor = self._hub(request.database), self._actor(request, context)
        if not request.wave:
            raise RowError("expected the number of the wave that was upgraded last, from 1, found none")
        done = await self._hosting.write(
            hub.planner.approve_wave, request.digest, request.wave - 1, actor=actor, reason=request.reason
        )
        return pb.ApproveWaveResponse(rollout=message_of_rollout(done))

    async def StopRollout(self, request: pb.StopRolloutRequest, context: Any) -> pb.StopRolloutResponse:
        hub, actor = self._hub(request.database), self._actor(request, context)
        done = await self._hosting.write(
            hub.planner.stop_rollout, request.digest, actor=actor, reason=request.reason
        )
        return pb.StopRolloutResponse(rollout=message_of_rollout(done))

    async def RollBack(self, request: pb.RollBackRequest, context: Any) -> pb.RollBackResponse:
        hub, actor = self._hub(request.database), self._actor(request, context)
        done = await self._hosting.write(
            hub.planner.roll_back, request.digest, actor=actor, reason=request.reason
        )
        return pb.RollBackResponse(rollout=message_of_rollout(done))

    @staticmethod
    def _survey_of(hub: Hub, found: ProposedPlan, survey_s: float) -> Surveying:
        """Begin to survey the members that a plan is about."""
        plan = found.plan
        return hub.planner.survey(
            Selector.parse(plan.selector), hold=plan.hold, deadline_s=_survey_s(survey_s)
        )

    async def Start(self, request: pb.StartRequest, context: Any) -> pb.StartResponse:
        hub = self._hub(request.database)
        _check_run(request.decision_id, request.deadline_s)
        plan = [target_of(one) for one in request.plan]
        actor = self._actor(request, context)
        run = await self._hosting.write(
            hub.begin,
            request.decision_id,
            plan,
            deadline_s=request.deadline_s,
            digest=request.digest,
            actor=actor,
            reason=request.reason,
        )
        return pb.StartResponse(run=message_of_run(run))

    async def Abort(self, request: pb.AbortRequest, context: Any) -> pb.AbortResponse:
        run = await self._operate(self._hub(request.database).abort, request, context)
        return pb.AbortResponse(run=message_of_run(run))

    async def Remove(self, request: pb.RemoveMemberRequest, context: Any) -> pb.RemoveMemberResponse:
        hub, actor = self._hub(request.database), self._actor(request, context)
        how = {"actor": actor, "reason": request.reason}
        if not request.decision_id:
            await self._hosting.write(hub.forget, request.member, **how)
            return pb.RemoveMemberResponse()
        run = await self._hosting.write(hub.remove, request.decision_id, request.member, **how)
        return pb.RemoveMemberResponse(run=message_of_run(run))

    async def Contract(self, request: pb.ContractRequest, context: Any) -> pb.ContractResponse:
        run = await self._operate(self._hub(request.database).contract, request, context)
        return pb.ContractResponse(run=message_of_run(run))

    async def _operate(self, fn: Callable[..., Run], request: Any, context: Any) -> Run:
        actor = self._actor(request, context)
        return await self._hosting.write(fn, request.decision_id, actor=actor, reason=request.reason)

    def _hub(self, database: str) -> Hub:
        self._hosting.database(database)
        hub = self._hubs.get(database)
        if hub is None:
            known = ", ".join(sorted(self._hubs)) or "none"
            raise MigrationError(
                f"database {database} is not the ledger of a fleet; ledgers of this server: {known}. To make"
                f" it one, start the server with --fleet {database}"
            )
        return hub

    def _actor(self, request: Any, context: Any) -> str:
        return self._hosting.auth.who(context, request.actor)


def _survey_s(deadline_s: float) -> float:
    """Return the time for surveys. Raises RowError."""
    if not 0 <= deadline_s <= DEADLINE_MAX_S:
        raise RowError(f"expected a time for surveys of up to {DEADLINE_MAX_S:,.0f} s, found {deadline_s:g}")
    return deadline_s or SURVEY_S


def _check_run(decision_id: bytes, deadline_s: float) -> None:
    """Raise RowError for an invalid UUID or deadline of a run."""
    if len(decision_id) != 16:
        raise RowError(f"expected the UUID of a run, 16 bytes, found {len(decision_id)}")
    _check_deadline(deadline_s)


def _pause_ns(pause_s: float) -> int:
    """Return a pause between waves. Raises RowError."""
    if not 0 <= pause_s <= DEADLINE_MAX_S:
        raise RowError(f"expected a pause of up to {DEADLINE_MAX_S:,.0f} s, found {pause_s:g}")
    return int(pause_s * 1e9)


def _check_deadline(deadline_s: float) -> None:
    if not 0 < deadline_s <= DEADLINE_MAX_S:
        raise RowError(f"expected a deadline of up to {DEADLINE_MAX_S:,.0f} s from now, found {deadline_s:g}")
