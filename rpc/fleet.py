"""Fleet: the messages of the Fleet service, to and from the values of `everlog.fleet`."""

from __future__ import annotations

from uuid import UUID

from everlog.feed import cursor
from everlog.fleet.approvals import PlanState, ProposedPlan
from everlog.fleet.plan import Refusal, decode_plan
from everlog.fleet.protocol import Decision, Order, Phase, Run, Seat, Target, Verb, Vote
from everlog.fleet.rollouts import decode_rollout
from everlog.fleet.runner import Carried, Planned
from everlog.fleet.status import EndedRun, FleetStatus, MemberReport, MemberStatus
from everlog.fleet.tasks import Answer, Kind, MemberTask
from everlog.proto import fleet_pb2 as pb
from everlog.proto import log_pb2

_Phases = pb.MemberReport.Phase


def message_of_report(one: MemberReport) -> pb.MemberReport:
    return pb.MemberReport(
        name=one.name,
        labels=one.labels,
        at=log_pb2.Cursor(database=one.database, seq=one.seq, checksum=one.checksum),
        version=one.version,
        newest=one.newest,
        pending=one.pending,
        folder_digest=one.folder_digest,
        phase=_Phases.Value(one.phase.value),
        decision_id=one.decision_id,
        fence=one.fence,
        refusal=one.refusal,
        rows=one.rows,
        total=one.total,
        rate=one.rate,
        waits_for=one.waits_for,
        error=one.error,
        diverged=one.diverged,
        release=one.release,
        compared=one.compared,
    )


def report_of(one: pb.MemberReport) -> MemberReport:
    return MemberReport(
        one.name,
        one.at.database,
        dict(one.labels),
        one.at.seq,
        one.at.checksum,
        one.version,
        one.newest,
        one.pending,
        one.folder_digest,
        Phase(_Phases.Name(one.phase)),
        one.decision_id,
        one.fence,
        one.refusal,
        one.rows,
        one.total,
        one.rate,
        one.waits_for,
        one.error,
        one.diverged,
        one.release,
        one.compared,
    )


def message_of_order(order: Order) -> pb.FleetOrder:
    return pb.FleetOrder(
        decision_id=order.decision_id,
        fence=order.fence,
        verb=pb.FleetOrder.Verb.Value(order.verb.value),
        target=message_of_target(order.target),
    )


def order_of(one: pb.FleetOrder) -> Order:
    verb = Verb(pb.FleetOrder.Verb.Name(one.verb))
    return Order(one.decision_id, one.fence, verb, target_of(one.target))


def message_of_task(task: MemberTask) -> pb.FleetOrder:
    return pb.FleetOrder(
        fence=task.fence,
        verb=pb.FleetOrder.REPORT,
        target=message_of_target(task.target),
        task=pb.FleetTask(id=task.id, kind=pb.FleetTask.Kind.Value(task.kind.value), reason=task.reason),
    )


def task_of(one: pb.FleetOrder) -> MemberTask | None:
    """Return the task of an order; None: it is of a kind that this release does not know."""
    if one.task.kind not in pb.FleetTask.Kind.values():
        return None
    kind = Kind(pb.FleetTask.Kind.Name(one.task.kind))
    return MemberTask(one.task.id, kind, one.fence, target_of(one.target), one.task.reason)


def message_of_answer(one: Answer) -> pb.FleetAnswer:
    return pb.FleetAnswer(member=one.database, id=one.id, problem=one.problem, document=one.document)


def answer_of(one: pb.FleetAnswer) -> Answer:
    return Answer(one.member, one.id, one.problem, one.document)


def message_of_problem(one: Refusal) -> pb.FleetProblem:
    return pb.FleetProblem(
        member=UUID(one.database).bytes if one.database else b"", name=one.name, why=one.reason
    )


def problem_of(one: pb.FleetProblem) -> Refusal:
    return Refusal(cursor.name(one.member) if one.member else "", one.name, one.why)


def message_of_plan(one: ProposedPlan) -> pb.ProposedFleetPlan:
    return pb.ProposedFleetPlan(
        digest=one.digest,
        document=one.document,
        state=pb.ProposedFleetPlan.State.Value(one.state.name),
        proposed_by=one.proposed_by,
        proposed_proof=one.proposed_proof,
        decided_by=one.decided_by,
        decided_proof=one.decided_proof,
        reason=one.reason,
        despite_errors=one.despite_errors,
        decision_id=one.decision_id,
    )


def plan_of(one: pb.ProposedFleetPlan) -> ProposedPlan:
    return ProposedPlan(
        one.digest,
        one.document,
        PlanState[pb.ProposedFleetPlan.State.Name(one.state)],
        one.proposed_by,
        one.decided_by,
        one.reason,
        one.despite_errors,
        one.decision_id,
        one.proposed_proof,
        one.decided_proof,
    )


def message_of_rollout(one: Carried) -> pb.FleetRollout:
    return pb.FleetRollout(
        digest=one.digest,
        document=one.rollout.encode(),
        plan=one.plan.encode(),
        waits_for=one.waits_for,
    )


def rollout_of(one: pb.FleetRollout) -> Carried:
    rollout = decode_rollout(one.document, one.digest)
    return Carried(one.digest, rollout, Planned.of(decode_plan(one.plan)), one.waits_for)


def message_of_target(one: Target) -> pb.FleetTarget:
    return pb.FleetTarget(
        member=one.database,
        from_version=one.from_version,
        to_version=one.to_version,
        folder_digest=one.folder_digest,
        hold=one.hold,
    )


def target_of(one: pb.FleetTarget) -> Target:
    return Target(one.member, one.from_version, one.to_version, one.folder_digest, one.hold)


def message_of_member(one: MemberStatus) -> pb.FleetMember:
    return pb.FleetMember(
        report=message_of_report(one.report),
        connected=one.connected,
        last_seen_ns=one.last_seen_ns,
        peer=one.peer,
        alarm=one.alarm,
    )


def member_of(one: pb.FleetMember) -> MemberStatus:
    return MemberStatus(report_of(one.report), one.connected, one.last_seen_ns, one.peer, one.alarm)


def message_of_run(run: Run) -> pb.FleetRun:
    return pb.FleetRun(
        decision_id=run.decision_id,
        decision=pb.FleetRun.Decision.Value(run.decision.value) if run.decision else pb.FleetRun.UNDECIDED,
        deadline_ns=run.deadline_ns,
        contract=run.contract,
        seats=[
            pb.FleetSeat(
                target=message_of_target(seat.target),
                vote=pb.FleetSeat.Vote.Value(seat.vote.value) if seat.vote else pb.FleetSeat.UNKNOWN,
                reason=seat.reason,
                removed=seat.removed,
                end=_Phases.Value((seat.end or Phase.IDLE).value),
            )
            for seat in run.seats
        ],
    )


def run_of(one: pb.FleetRun) -> Run:
    return Run(
        one.decision_id,
        tuple(
            Seat(
                target_of(seat.target),
                Vote(pb.FleetSeat.Vote.Name(seat.vote)) if seat.vote else None,
                seat.reason,
                seat.removed,
                Phase(_Phases.Name(seat.end)) if seat.end else None,
            )
            for seat in one.seats
        ),
        one.deadline_ns,
        Decision(pb.FleetRun.Decision.Name(one.decision)) if one.decision else None,
        one.contract,
    )


def message_of_ended(one: EndedRun) -> pb.FleetEndedRun:
    return pb.FleetEndedRun(
        decision_id=one.decision_id,
        decision=pb.FleetRun.Decision.Value(one.decision.value),
        members=one.members,
        upgraded=one.upgraded,
        started_ns=one.started_ns,
        decided_ns=one.decided_ns,
        ended_ns=one.ended_ns,
        actor=one.actor,
        reason=one.reason,
        why=one.why,
    )


def ended_of(one: pb.FleetEndedRun) -> EndedRun:
    return EndedRun(
        decision_id=one.decision_id,
        decision=Decision(pb.FleetRun.Decision.Name(one.decision)),
        members=one.members,
        upgraded=one.upgraded,
        started_ns=one.started_ns,
        decided_ns=one.decided_ns,
        ended_ns=one.ended_ns,
        actor=one.actor,
        reason=one.reason,
        why=one.why,
    )


def message_of_status(one: FleetStatus) -> pb.FleetStatusResponse:
    return pb.FleetStatusResponse(
        epoch=one.epoch,
        problem=one.problem,
        members=[message_of_member(member) for member in one.members],
        runs=[message_of_run(run) for run in one.runs],
        ended=[message_of_ended(run) for run in one.ended],
        checked=one.checked,
    )


def status_of(one: pb.FleetStatusResponse) -> FleetStatus:
    return FleetStatus(
        one.epoch,
        one.problem,
        [member_of(member) for member in one.members],
        [run_of(run) for run in one.runs],
        [ended_of(run) for run in one.ended],
        one.checked,
    )
