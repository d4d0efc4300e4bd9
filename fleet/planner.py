"""Planner: what operators do with the plans of a fleet: survey, propose, approve, start, roll out.

    operator ─ survey ─▶ Surveying ─▶ members ─ answers ─▶ Surveyed
             ─ propose ─▶ plan in the ledger ─ approve ─▶ upgrade ─▶ run, in unison
                                                       └▶ roll_out ─▶ rollout, in waves (runner.py)

Members are surveyed before each step, without a thread that waits: the caller looks whether the survey is
over, and gives the result to the step.

Invariants
  (1) A plan that is stale is neither approved nor started, and the error says what has changed.
  (2) A member that could not be surveyed is named, unless it has the version of the plan already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from everlog.feed import cursor
from everlog.fleet import waves
from everlog.fleet.approvals import PlanApprovals, ProposedPlan
from everlog.fleet.members_file import ALL, Surveyed
from everlog.fleet.plan import Refusal, changes, draft, target_of
from everlog.fleet.protocol import Run, Target
from everlog.fleet.rollouts import OPEN, Change
from everlog.fleet.runner import Carried, Runner
from everlog.fleet.selector import Selector
from everlog.fleet.status import MemberStatus
from everlog.fleet.survey import Survey, decode_survey, listed
from everlog.fleet.tasks import Asked, Kind
from everlog.fleet.waves import Gate
from everlog.store.errors import Error, MigrationError

SURVEY_S = 300.0  # how long an operator waits for surveys


class Surveying(NamedTuple):
    """A survey of members that continues. `problems`: of those that cannot be asked."""

    asked: Asked
    names: dict[bytes, str]
    problems: list[Refusal]

    @property
    def waits_for(self) -> list[str]:
        """The names of the members that have not answered."""
        return sorted(self.names[one.database] for one in self.asked.waiting)

    def result(self) -> Surveyed:
        """Return what was answered; members that have not answered are problems."""
        surveys, problems = list[Survey](), list(self.problems)
        for database, name in sorted(self.names.items(), key=lambda one: one[1]):
            answer, why = self.asked.answers.get(database), ""
            if answer is None:
                why = (
                    f"it has not answered within {self.asked.deadline_s:g} s; try again, or leave it out"
                    f" (name!={name})"
                )
            elif not (why := answer.problem):
                try:
                    surveys.append(decode_survey(answer.document))
                except Error as error:
                    why = str(error)
            if why:
                problems.append(Refusal(cursor.name(database), name, why))
        return Surveyed(surveys, problems)


class Surveyor(Protocol):
    """The part of a hub that a planner needs."""

    def members(self) -> list[MemberStatus]: ...
    def ask(self, asked: Asked) -> Asked: ...
    def begin(
        self,
        decision_id: bytes,
        plan: Iterable[Target],
        *,
        deadline_s: float,
        digest: bytes = b"",
        actor: str = "",
        reason: str = "",
    ) -> Run: ...


class Planner:
    """The plans of a hub. Safe to use from many threads. `checked`: a plan is started only if it was
    approved."""

    def __init__(self, hub: Surveyor, approvals: PlanApprovals, runner: Runner, *, checked: bool) -> None:
        self._hub = hub
        self._approvals = approvals
        self._runner = runner
        self._checked = checked

    def survey(
        self, selector: Selector = ALL, *, hold: bool = False, deadline_s: float = SURVEY_S
    ) -> Surveying:
        """Begin to survey the selected members; let the hub `dismiss` what it asks at the end. Members that
        are not connected, or have an alarm, are problems. Raises MigrationError if no member is selected."""
        names, problems = dict[bytes, str](), list[Refusal]()
        for one in self._selected(selector):
            report, why = one.report, one.alarm
            if not why and not one.connected:
                why = f"it is not connected; start its process, or leave it out (name!={report.name})"
            if why:
                problems.append(Refusal(cursor.name(report.database), report.name, why))
            else:
                names[report.database] = report.name
        targets = [Target(database, 0, 0, b"", hold) for database in names]
        asked = self._hub.ask(Asked(Kind.SURVEY, targets, deadline_s=deadline_s))
        return Surveying(asked, names, problems)

    # plans

    def propose(
        self,
        surveyed: Surveyed,
        selector: Selector,
        to: int | None = None,
        *,
        hold: bool = False,
        unison: bool = True,
        actor: str = "",
        reason: str = "",
    ) -> ProposedPlan:
        """Draft the plan of the surveyed members, and propose it. Writes one commit or none. Raises
        MigrationError as `plan.draft`, also with members that could not be surveyed."""
        plan = draft(
            surveyed.surveys,
            to,
            hold=hold,
            unison=unison,
            selector=str(selector),
            problems=self._concerned(surveyed, to or target_of(surveyed.surveys)),
        )
        return self._approvals.propose(plan, actor=actor, reason=reason)

    def approve(
        self,
        words: str,
        surveyed: Surveyed,
        *,
        actor: str,
        reason: str,
        despite_errors: bool = False,
    ) -> ProposedPlan:
        """Approve a plan; see PlanApprovals. Raises MigrationError, also if a member of it could not be
        surveyed."""
        surveys = self._current(self._approvals.find(words), surveyed)
        return self._approvals.approve(
            words, surveys, actor=actor, reason=reason, despite_errors=despite_errors
        )

    def upgrade(
        self,
        found: ProposedPlan,
        surveyed: Surveyed,
        decision_id: bytes,
        *,
        deadline_s: float,
        actor: str = "",
        reason: str = "",
    ) -> Run:
        """Start the run of a plan in unison. Writes. Raises MigrationError if the plan is stale, with what
        has changed, or may not start: nothing was done."""
        self.check_startable(found.digest.hex())  # another operator may have been faster
        self.check_current(found, surveyed)
        return self._hub.begin(
            decision_id,
            found.plan.targets(),
            deadline_s=deadline_s,
            digest=found.digest,
            actor=actor,
            reason=reason,
        )

    def check_startable(self, words: str, *, unison: bool = True) -> ProposedPlan:
        """Return the plan whose digest starts with `words`. Read-only. Raises MigrationError if it cannot be
        started now, in unison or in waves."""
        found = self._approvals.find(words)
        self._approvals.check_startable(found, checked=self._checked, unison=unison)
        return found

    def check_current(self, found: ProposedPlan, surveyed: Surveyed) -> list[Survey]:
        """Return the surveys of a plan. Raises MigrationError if it is stale, or a member of it could not be
        surveyed."""
        surveys = self._current(found, surveyed)
        stale = changes(found.plan, surveys)
        if stale:
            raise MigrationError(
                f"plan {found.short} is not started, because it is stale: {listed(stale)}; plan again with"
                " `everlog fleet plan`",
                digest=found.digest.hex(),
                changes=stale,
            )
        return surveys

    def _current(self, found: ProposedPlan, surveyed: Surveyed) -> list[Survey]:
        plan = found.plan
        members = {one.database for one in plan.members}
        problems = self._concerned(surveyed, plan.to_version, members)
        return Surveyed(surveyed.surveys, problems).check()

    def _concerned(self, surveyed: Surveyed, to: int, members: Collection[str] = ()) -> list[Refusal]:
        """Return the members that could not be surveyed and lack a version, or are among `members`."""
        known = {cursor.name(one.report.database): one.report.version for one in self._hub.members()}
        return [
            one
            for one in surveyed.problems
            if one.database in members or not to or known.get(one.database, 0) < to
        ]

    def _selected(self, selector: Selector) -> list[MemberStatus]:
        """Return the selected members, by name. Raises MigrationError if there are none."""
        found = [
            one
            for one in self._hub.members()
            if selector.matches(one.report.name, one.report.labels, one.report.version)
        ]
        if not found:
            raise MigrationError(
                f"no member is selected by {str(selector)!r}; `everlog fleet status` lists them"
            )
        return sorted(found, key=lambda one: one.report.name)

    # rollouts

    def roll_out(
        self,
        found: ProposedPlan,
        surveyed: Surveyed,
        words: Sequence[str] = waves.DEFAULT,
        *,
        gate: Gate = OPEN,
        deadline_s: float,
        actor: str = "",
        reason: str = "",
    ) -> Carried:
        """Begin to carry out a plan in waves. `words`: the waves; see waves.py. Writes. Raises MigrationError
        and RowError: nothing was done."""
        self.check_startable(found.digest.hex(), unison=False)
        surveys, plan = self.check_current(found, surveyed), found.plan
        planned = {one.database for one in plan.members}
        split = waves.split([one for one in surveys if one.database in planned], words)
        return self._runner.begin(
            found.digest, plan, split, gate, deadline_s=deadline_s, actor=actor, reason=reason
        )

    def rollouts(self) -> list[Carried]:
        """Return the rollouts, in the order in which their plans were proposed. Read-only."""
        return self._runner.carried()

    def approve_wave(self, words: str, wave: int, *, actor: str, reason: str) -> Carried:
        """Approve that the wave after this one, counted from 0, begins. Writes. Raises MigrationError if the
        rollout does not wait for it, or `actor` may not approve."""
        found = self._approvals.find(words)
        self._approvals.rules.check_name(actor, "approve", f"wave {wave + 1} of plan {found.short}")
        return self._changed(found, partial(waves.approve, wave=wave), actor, reason)

    def stop_rollout(self, words: str, *, actor: str = "", reason: str = "") -> Carried:
        """Begin no other wave and no other member. Writes. Raises MigrationError if it has ended."""
        why = reason or f"stopped by {actor or 'an unnamed caller'}"
        return self._changed(self._approvals.find(words), partial(waves.stop, reason=why), actor, why)

    def roll_back(self, words: str, *, actor: str = "", reason: str = "") -> Carried:
        """Roll back the upgraded members, the last wave first. Writes. Raises MigrationError before the
        rollout has stopped or finished."""
        return self._changed(self._approvals.find(words), waves.roll_back, actor, reason)

    def _changed(self, found: ProposedPlan, change: Change, actor: str, reason: str) -> Carried:
        return self._runner.change(found.digest, change, actor=actor, reason=reason)
