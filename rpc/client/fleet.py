"""Fleet: `db.fleet` of a fleet's ledger at a server: its members and runs, and the calls of operators."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grpc

from everlog.fleet.approvals import ProposedPlan
from everlog.fleet.members_file import Surveyed
from everlog.fleet.planner import SURVEY_S
from everlog.fleet.protocol import Run, Target
from everlog.fleet.runner import Carried
from everlog.fleet.selector import Selector
from everlog.fleet.status import EndedRun, FleetStatus, MemberStatus, stragglers_first
from everlog.fleet.survey import decode_survey
from everlog.fleet.waves import DEFAULT
from everlog.proto import fleet_pb2 as pb
from everlog.proto import fleet_pb2_grpc
from everlog.rpc import errors
from everlog.rpc.client.channel import COMMIT_S, Channel
from everlog.rpc.fleet import (
    ended_of,
    member_of,
    message_of_target,
    plan_of,
    problem_of,
    rollout_of,
    run_of,
    status_of,
)
from everlog.store.errors import MigrationError, UnavailableError
from everlog.store.progress import OnProgress, Progress

DEADLINE_S = 3600.0
ALL = Selector()


class RemoteFleet:
    """The fleet whose ledger is a database of a server. Thread-safe."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._database = channel.address.database
        self._stub = fleet_pb2_grpc.FleetStub(channel.grpc)

    def status(self) -> FleetStatus:
        """Return the members, stragglers first, and the runs. Read-only. Raises MigrationError if the
        database is not the ledger of a fleet."""
        request = pb.FleetStatusRequest(database=self._database)
        return status_of(self._channel.call(self._stub.Status, request))

    def watch(self, *, interval_s: float = 0.5) -> Iterator[FleetStatus]:
        """Yield the status, and again after each change, at most once in `interval_s` seconds. Read-only.
        Continues while the server is unavailable for a short time."""
        members: dict[bytes, MemberStatus] = {}
        runs: dict[bytes, Run] = {}
        ended: list[EndedRun] = []
        patience = self._channel.patience()
        request = pb.WatchRequest(database=self._database, interval_ms=int(interval_s * 1e3))
        while True:
            self._channel.check_open()
            call = self._channel.started(lambda: self._stub.Watch(request, metadata=self._channel.metadata))
            first = True
            try:
                for response in call:
                    patience.succeeded()
                    if first:
                        members, runs, ended, first = {}, {}, [], False
                    for one in response.forgotten:
                        members.pop(one, None)
                    for one in response.dropped:
                        runs.pop(one, None)
                    members.update({one.report.at.database: member_of(one) for one in response.members})
                    runs.update({one.decision_id: run_of(one) for one in response.runs})
                    ended = [ended_of(one) for one in response.ended] or ended
                    found = list(runs.values())
                    yield FleetStatus(
                        response.epoch,
                        response.problem,
                        stragglers_first(members.values(), found),
                        found,
                        ended,
                        response.checked,
                    )
                return
            except grpc.RpcError as error:
                patience.after(errors.translate(error, self._channel.url))
            finally:
                call.cancel()

    def survey(
        self,
        selector: Selector | str = "",
        *,
        hold: bool = False,
        deadline_s: float = SURVEY_S,
        progress: OnProgress | None = None,
    ) -> Surveyed:
        """Survey the selected members: versions, folders, and what their next migration does to their rows.

        `hold`: it would serve two versions. Members that are not connected, have an alarm, or do not answer
        within `deadline_s` seconds are problems of the result, by name. Read-only. Raises RowError for an
        invalid selector, and MigrationError if no member is selected.
        """
        request = pb.FleetSurveyRequest(
            database=self._database, selector=str(selector), hold=hold, deadline_s=deadline_s
        )
        found = Surveyed([], [])
        for response in self._channel.stream(self._stub.Survey, request):
            _tell(progress, response)
            found.surveys.extend(decode_survey(one) for one in response.surveys)
            found.problems.extend(problem_of(one) for one in response.problems)
        return found

    def plan(
        self,
        selector: Selector | str = "",
        *,
        to: int | None = None,
        hold: bool = False,
        waves: bool = False,
        survey_s: float = SURVEY_S,
        actor: str = "",
        reason: str = "",
        progress: OnProgress | None = None,
    ) -> ProposedPlan:
        """Survey the selected members, plan their upgrade, and propose the plan. Return it.

        `to`: None: the oldest version that is pending anywhere; a plan has one migration. `hold`: both
        versions are served after the switch. `waves`: for waves, also of migrations that cannot wait for a
        decision. It supersedes the newest plan, unless that is the same. Writes one commit or none. Raises
        MigrationError if a member cannot be upgraded, with all of them (`refusals`), and if none has a
        pending migration.
        """
        request = pb.FleetPlanRequest(
            database=self._database,
            selector=str(selector),
            to=to or 0,
            hold=hold,
            waves=waves,
            survey_s=survey_s,
            actor=actor,
            reason=reason,
        )
        response = self._last(self._stub.Plan, request, progress)
        if response.refusal:
            raise MigrationError(response.refusal, refusals=[problem_of(one) for one in response.problems])
        return plan_of(response.plan)

    def plans(self, digest: str = "", *, limit: int | None = None) -> list[ProposedPlan]:
        """Return the plans that were proposed, the newest last: all, the newest `limit`, or the one whose
        digest starts with `digest`. Read-only. Raises MigrationError for a digest that no plan has."""
        request = pb.FleetPlansRequest(database=self._database, digest=digest, limit=limit or 0)
        return [plan_of(one.plan) for one in self._channel.stream(self._stub.Plans, request)]

    def approve(
        self,
        digest: str,
        *,
        despite_errors: bool = False,
        survey_s: float = SURVEY_S,
        actor: str = "",
        reason: str,
        progress: OnProgress | None = None,
    ) -> ProposedPlan:
        """Approve the plan whose digest starts with `digest`, at least 6 digits. Return it.

        Its members are surveyed again. `despite_errors`: also if lint found errors. Writes one commit. Raises
        MigrationError, without an effect, if the plan is stale or decided, or the caller may not approve it.
        """
        request = pb.FleetApproveRequest(
            database=self._database,
            digest=digest,
            despite_errors=despite_errors,
            survey_s=survey_s,
            actor=actor,
            reason=reason,
        )
        return plan_of(self._last(self._stub.Approve, request, progress).plan)

    def reject(self, digest: str, *, actor: str = "", reason: str) -> ProposedPlan:
        """Reject a plan that was not started. Return it. Writes one commit. Raises MigrationError."""
        request = pb.FleetRejectRequest(database=self._database, digest=digest, actor=actor, reason=reason)
        return plan_of(self._call(self._stub.Reject, request).plan)

    def upgrade(
        self,
        digest: str,
        *,
        decision_id: bytes | None = None,
        deadline_s: float = DEADLINE_S,
        survey_s: float = SURVEY_S,
        actor: str = "",
        reason: str = "",
        progress: OnProgress | None = None,
    ) -> Run:
        """Start the run of a proposed plan in unison: all of its members are upgraded, or none. Returns when
        it has started; see `watch`.

        `digest`: or its first digits, at least 6. Its members are surveyed again. `decision_id`,
        `deadline_s`: see `start`. Writes. Raises MigrationError, without an effect, if the plan is stale (its
        `changes`), if it needs approval, or while another run is undecided.
        """
        made = decision_id or uuid.uuid4().bytes
        request = pb.FleetUpgradeRequest(
            database=self._database,
            digest=digest,
            decision_id=made,
            deadline_s=deadline_s,
            survey_s=survey_s,
            actor=actor,
            reason=reason,
        )
        try:
            return run_of(self._last(self._stub.Upgrade, request, progress).run)
        except (MigrationError, UnavailableError):  # the response may have been lost
            if decision_id is None and (run := self._run(made)) is not None:
                return run
            raise

    def start_rollout(
        self,
        digest: str,
        waves: Sequence[str] = DEFAULT,
        *,
        pause_s: float = 0.0,
        check: bool = False,
        approval: bool = False,
        deadline_s: float = DEADLINE_S,
        survey_s: float = SURVEY_S,
        actor: str = "",
        reason: str = "",
        progress: OnProgress | None = None,
    ) -> Carried:
        """Begin to carry out a plan for waves. Returns when it has begun; see `rollouts`.

        `waves`: as `1`, `5%`, `region=eu`, `by region`, `rest`. Between two waves: a pause; `check`:
        checks.py at the members, and the check of the server; `approval`: a person (`approve_wave`). A
        failure stops the rollout. `deadline_s`: for the votes of a wave. Writes. Raises MigrationError,
        without an effect, if the plan is stale, needs approval or has begun, and RowError for waves that
        leave a member out.
        """
        request = pb.StartRolloutRequest(
            database=self._database,
            digest=digest,
            waves=waves,
            pause_s=pause_s,
            check=check,
            approval=approval,
            deadline_s=deadline_s,
            survey_s=survey_s,
            actor=actor,
            reason=reason,
        )
        return rollout_of(self._last(self._stub.StartRollout, request, progress).rollout)

    def rollouts(self, digest: str = "") -> list[Carried]:
        """Return the plans that are carried out in waves, or were, the newest last; or that with this digest.
        Read-only."""
        request = pb.RolloutsRequest(database=self._database, digest=digest)
        return [rollout_of(one.rollout) for one in self._channel.stream(self._stub.Rollouts, request)]

    def approve_wave(self, digest: str, wave: int, *, actor: str = "", reason: str = "") -> Carried:
        """Approve that the wave after `wave` begins, the number of the last one from 1. Writes. Raises
        MigrationError if the rollout does not wait for it."""
        request = pb.ApproveWaveRequest(
            database=self._database, digest=digest, wave=wave, actor=actor, reason=reason
        )
        return rollout_of(self._call(self._stub.ApproveWave, request).rollout)

    def stop_rollout(self, digest: str, *, actor: str = "", reason: str = "") -> Carried:
        """Begin no other wave and no other member; those that have begun come to their end. Writes. Raises
        MigrationError if the rollout has ended."""
        request = pb.StopRolloutRequest(database=self._database, digest=digest, actor=actor, reason=reason)
        return rollout_of(self._call(self._stub.StopRollout, request).rollout)

    def roll_back(self, digest: str, *, actor: str = "", reason: str = "") -> Carried:
        """Roll back the upgraded members of a rollout, the last wave first, or try again those that failed.
        Returns when it has begun. Writes. Raises MigrationError before it has stopped or finished."""
        request = pb.RollBackRequest(database=self._database, digest=digest, actor=actor, reason=reason)
        return rollout_of(self._call(self._stub.RollBack, request).rollout)

    def start(
        self,
        plan: Iterable[Target],
        *,
        decision_id: bytes | None = None,
        deadline_s: float = DEADLINE_S,
        digest: bytes = b"",
        actor: str = "",
        reason: str = "",
    ) -> Run:
        """Start a run: the members of `plan` prepare, and are switched if all have voted within `deadline_s`
        seconds, else none is. Returns at once; see `watch`.

        `decision_id`: UUID of the run, 16 bytes; None: a new one. `digest`: of the proposed plan with these
        members (`everlog.fleet.PlanApprovals`), which is marked as started. Writes. Raises MigrationError,
        without an effect, while another run is undecided, and if a member has not ended an earlier one.
        """
        made = decision_id or uuid.uuid4().bytes
        request = pb.StartRequest(
            database=self._database,
            decision_id=made,
            plan=[message_of_target(one) for one in plan],
            deadline_s=deadline_s,
            digest=digest,
            actor=actor,
            reason=reason,
        )
        try:
            response = self._call(self._stub.Start, request)
        except MigrationError:  # the call may have been repeated after a lost response
            if decision_id is None and (run := self._run(made)) is not None:
                return run
            raise
        return run_of(response.run)

    def abort(self, decision_id: bytes, *, actor: str = "", reason: str = "") -> Run:
        """Abort a run at all its members. Writes. Raises MigrationError if it is unknown or decided."""
        request = pb.AbortRequest(
            database=self._database, decision_id=decision_id, actor=actor, reason=reason
        )
        return run_of(self._call(self._stub.Abort, request).run)

    def remove(
        self, member: bytes, *, decision_id: bytes | None = None, actor: str = "", reason: str = ""
    ) -> Run | None:
        """Remove a member, the UUID of its database, from a run, which aborts it there alone, and return the
        run. Without a run, forget the member.

        Writes. Raises MigrationError if the run is decided or has no such member; and for a member to forget
        that is connected, or that a run waits for.
        """
        request = pb.RemoveMemberRequest(
            database=self._database,
            member=member,
            decision_id=decision_id or b"",
            actor=actor,
            reason=reason,
        )
        response = self._call(self._stub.Remove, request)
        return run_of(response.run) if response.HasField("run") else None

    def contract(self, decision_id: bytes, *, actor: str = "", reason: str = "") -> Run:
        """End the time of two versions at all members of a run. Writes. Raises MigrationError before each has
        committed."""
        request = pb.ContractRequest(
            database=self._database, decision_id=decision_id, actor=actor, reason=reason
        )
        return run_of(self._call(self._stub.Contract, request).run)

    def _last(self, method: Callable[..., Any], request: Any, progress: OnProgress | None) -> Any:
        """Return the last response of a call that surveys members first."""
        last = None
        for last in self._channel.stream(method, request):
            _tell(progress, last)
        return last

    def _run(self, decision_id: bytes) -> Run | None:
        return next((run for run in self.status().runs if run.decision_id == decision_id), None)

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        return self._channel.call(method, request, timeout_s=COMMIT_S)


def _tell(progress: OnProgress | None, response: Any) -> None:
    """Tell a caller about the progress of a survey."""
    if progress is not None and response.HasField("progress"):
        at = response.progress
        progress(Progress("survey the members", at.answered, at.members, "members"))


def targets(
    status: FleetStatus, selector: Selector = ALL, *, to: int | None = None, hold: bool = False
) -> list[Target]:
    """Return the plan of a run of the selected members that are not at the version `to` yet; None: the newest
    of the folders of each. `hold`: two versions are served after the switch.

    Raises MigrationError if no member is selected, or one of them cannot vote now: it is not connected, has
    an alarm, or has more than one pending migration.
    """
    chosen = [
        one
        for one in status.members
        if selector.matches(one.report.name, one.report.labels, one.report.version)
    ]
    if not chosen:
        raise MigrationError(f"no member is selected by {str(selector)!r}; `everlog fleet status` lists them")
    plan = []
    for one in sorted(chosen, key=lambda one: one.report.name):
        report = one.report
        version = report.newest if to is None else to
        if report.version == version:
            continue
        why = one.alarm or _cannot_vote(one, version)
        if why:
            raise MigrationError(f"member {report.name} cannot be upgraded: {why}; nothing was done")
        plan.append(Target(report.database, report.version, version, report.folder_digest, hold))
    if not plan:
        raise MigrationError("no selected member has a pending migration; nothing was done")
    return plan


def _cannot_vote(one: MemberStatus, version: int) -> str:
    report = one.report
    if not one.connected:
        return "it is not connected"
    if not report.version < version <= report.newest:
        return f"it is at version {report.version}, its folders end at {report.newest}, not {version}"
    if report.pending > 1 and version == report.newest:
        return (
            f"it has {report.pending} pending migrations, and a run has one: upgrade to each (--to-version)"
        )
    return ""
