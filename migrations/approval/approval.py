"""Approval: pending migrations are applied when somebody who may has approved what was shown.

    propose ─▶ PROPOSED ─▶ approve: who? still the same? ─▶ APPROVED ─▶ run ─▶ applied, or FAILED
                        └▶ reject ─▶ REJECTED

Each is a record of the log, with who, when and why. A proposal that was shown and is still true is
not made a second time, whoever asks: a server that starts again goes on with it.

Invariants
  (1) nothing is applied that is not approved, and nothing but what was approved;
  (2) a run that was killed is gone on with, because APPROVED is the last that the log knows of it;
  (3) of two decisions one wins: each is taken under the lock of the database, its record is appended
      only if the proposal is as it was seen, and who approves and applies holds the lock throughout.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from everlog.migrations import in_progress
from everlog.migrations.approval.comparison import check_same, differences, draft
from everlog.migrations.folder import SOURCE, Source
from everlog.migrations.loader import load
from everlog.migrations.lock import Stop, check_going, lock
from everlog.migrations.plan import pending
from everlog.migrations.plan_document import Plan, kept
from everlog.migrations.proposal import (
    Proposal,
    ProposalState,
    Rules,
    Step,
    check_reason,
    pick,
    proposals,
    record_of,
)
from everlog.migrations.runner import apply
from everlog.migrations.status import MigrationInfo, rolled_back
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import ClosedError, DiskError, Error, MigrationError
from everlog.store.progress import OnProgress
from everlog.store.schema import arguments
from everlog.store.tx.transaction import Metadata

ERRORS_SHOWN = 3
_SETTLED = (ProposalState.REJECTED, ProposalState.FAILED, ProposalState.ROLLED_BACK)

logger = logging.getLogger("everlog")


@dataclass
class Approval:
    """The approvals of one database. `source` are its migrations, `name` what people call it.

    `hold` and `rate` are those of `apply`. `changed` is called after each record, and when a run
    begins. Safe to use from many threads.
    """

    db: Database
    source: Source = SOURCE
    name: str = ""
    rules: Rules = field(default_factory=Rules)
    link: Callable[[bytes], str] = lambda _: ""  # where the page of a digest is
    changed: Callable[[], None] = lambda: None
    hold: bool = False
    rate: float | None = None
    stop: Stop = field(default_factory=Stop)  # what runs ends soon, and is gone on with later

    running: bytes = b""  # digest of what is being applied now
    problem: str = ""  # why the pending migrations can neither be proposed nor applied
    on_problem: Callable[[], None] = lambda: None  # called when that has changed

    def proposals(self) -> list[Proposal]:
        """All, oldest first. Read-only."""
        found = proposals(self.db)
        for one in found:
            one.url = self.link(one.digest)
        return found

    def propose(self, *, actor: str = "", reason: str = "", again: bool = False) -> Proposal | None:
        """Proposes what is pending, unless the same was proposed last; None: nothing is pending.

        What was rejected or has failed stays so, unless it is proposed `again`. Writes one record
        or none. Raises MigrationError and SchemaError for what could not be applied.
        """
        Metadata(actor, reason).check()
        with lock(self.db.uuid, actor, reenter=True):
            now = self._draft()
            self._has_problem("")
            newest = self._newest()
            if newest is not None and newest.state is ProposalState.APPROVED:
                return newest
            if now is None:
                return None
            migrations = load(self.source)
            if newest is not None and not differences(newest.plan, now):
                waits = newest.state is ProposalState.WAITING
                if waits or (newest.state in _SETTLED and not again):
                    return newest
            if not again and self._rolled_back(now):
                return newest
            self._record(record_of(now, kept(now, migrations)), actor, reason, after=newest)
        return self._told()

    def approve(self, words: str, *, actor: str, reason: str, despite_errors: bool = False) -> Proposal:
        """Approves the proposal whose digest starts with `words`; `run` then applies it.

        A plan with errors (`Plan.errors`) is approved only with `despite_errors`, which the log then
        says. Writes one record. Raises MigrationError if it may not be, was decided already, or is not
        what was shown any more: then nothing is approved, and what is pending now is proposed.
        """
        Metadata(actor, reason).check()
        self._decidable(words, actor, "approve")  # before it waits for whoever migrates
        with lock(self.db.uuid, actor, reenter=True) as holder:
            proposal = self._decidable(words, actor, "approve")
            holder.at = proposal.plan.to_version, proposal.plan.migrations[-1].name
            if proposal.state is ProposalState.APPROVED:
                return proposal  # it stopped on its way, and goes on
            now = self._draft()
            changes = differences(proposal.plan, now)
            if now is not None and not changes:
                _check_errors(proposal, now.errors, despite=despite_errors)
                step = log_pb2.Migration(step=Step.APPROVED, despite_errors=bool(now.errors))
                self._decide(proposal, step, actor, reason)
        if changes:
            raise self._changed(proposal, changes)
        return self._told()

    def approve_and_run(
        self,
        words: str,
        *,
        actor: str,
        reason: str,
        despite_errors: bool = False,
        approved: Callable[[Proposal], None] | None = None,
        progress: OnProgress | None = None,
        applied: Callable[[MigrationInfo], None] | None = None,
    ) -> Proposal:
        """`approve` and `run` as one: nobody can decide between them. `approved` is called between
        the two."""
        Metadata(actor, reason).check()
        self._decidable(words, actor, "approve")
        with lock(self.db.uuid, actor, reenter=True):
            proposal = self.approve(words, actor=actor, reason=reason, despite_errors=despite_errors)
            if approved is not None:
                approved(proposal)
            return self.run(progress=progress, applied=applied)

    def reject(self, words: str, *, actor: str, reason: str) -> Proposal:
        """Rejects a proposal: it is not applied. One that was approved, and stopped on its way, is
        given up without a trace. Writes one record. Raises MigrationError."""
        Metadata(actor, reason).check()
        self._decidable(words, actor, "reject")
        with lock(self.db.uuid, actor, reenter=True):
            proposal = self._decidable(words, actor, "reject")
            begun = in_progress.under_way(self.db) is not None
            if begun and proposal.state is ProposalState.APPROVED:
                check_reason(reason)
                in_progress.give_up(self.db, Metadata(actor, reason))
            else:
                self._decide(proposal, log_pb2.Migration(step=Step.REJECTED), actor, reason)
        return self._told()

    def cancel(self, *, actor: str, reason: str) -> MigrationInfo:
        """Stops what is being applied, or has stopped on its way, and gives it up; see
        `everlog.migrations.cancel`. For who may approve. Raises MigrationError."""
        self.rules.check_name(actor, "cancel", f"a migration of {self.name or self.db.url}")
        check_reason(reason)
        done = in_progress.cancel(self.db, actor=actor, reason=reason)
        self.changed()
        return done

    def run(
        self,
        *,
        progress: OnProgress | None = None,
        applied: Callable[[MigrationInfo], None] | None = None,
    ) -> Proposal:
        """Applies what was approved last, and tells what became of it. Online: rows are read and
        written meanwhile. If it fails, FAILED is recorded and the error raised."""
        with lock(self.db.uuid, "what was approved", progress=progress, reenter=True):
            proposal = self._newest()
            if proposal is None or proposal.state is not ProposalState.APPROVED:
                raise MigrationError("nothing is approved that was not applied")
            approved = proposal.event("approved")
            assert approved is not None
            self.running = proposal.digest
            self.changed()
            try:
                apply(
                    self.db,
                    self.source,
                    to=proposal.plan.to_version,
                    actor=approved.who,
                    reason=approved.reason,
                    progress=self.stop.through(progress),
                    applied=applied,
                    check=lambda todo: check_same(proposal.plan, todo),
                    hold=self.hold,
                    rate=self.rate,
                )
            except Error as error:
                if not isinstance(error, (ClosedError, DiskError)) and in_progress.under_way(self.db) is None:
                    self._failed(proposal, approved.who, error)
                raise  # else it is no fault of the plan: it stays approved, and is gone on with
            finally:
                self.running = b""
                self.changed()
        return self._told()

    def prepare(self) -> None:
        """What must be done before anybody writes, and is done at once: a migration that was begun
        gets its code. Raises MigrationError and SchemaError for folders that cannot be applied."""
        migrations = load(self.source)
        in_progress.attach(self.db, migrations)
        pending(self.db, migrations)

    def prepare_or_report(self) -> None:
        """As `prepare`; folders that cannot be applied become `problem`, and the version that is there is
        served. Operators are notified."""
        try:
            self.prepare()
        except (Error, OSError) as error:
            self._has_problem(str(error))

    def start(self, *, actor: str = "", reason: str = "") -> None:
        """Goes on with what was approved and not finished when this process began, and proposes what
        is pending. Takes as long as that takes; what goes wrong is logged."""
        if self.problem:
            return
        try:
            newest = self._newest()
            if newest is not None and newest.state is ProposalState.APPROVED:
                self.run()
        except Error as error:
            logger.error("%s: %s", self.name or self.db.url, error)  # noqa: TRY400  its sentence says all
        try:
            self.propose(actor=actor, reason=reason)
        except ClosedError as error:
            logger.warning("%s: %s", self.name or self.db.url, error)
        except Error as error:
            self._has_problem(str(error))

    def refuse(self, verb: str) -> NoReturn:
        """Raises MigrationError: whoever would migrate in another way is told to have it approved."""
        newest = self._newest()
        known = newest is not None and newest.state is not ProposalState.FINISHED
        where = f"what is pending {newest.says}" if newest and known else "`everlog propose` proposes it"
        raise MigrationError(
            f"{self.name or self.db.url} is migrated when that is approved, not by `{verb}`: {where}"
        )

    def _has_problem(self, problem: str) -> None:
        if problem:
            logger.error(
                "%s: migrations cannot be applied, version %d is served: %s",
                *(self.name or self.db.url, self.db.schema.version, problem),
            )
        if problem != self.problem:
            self.problem = problem
            self.on_problem()
            self.changed()

    def _newest(self) -> Proposal | None:
        found = self.proposals()
        return found[-1] if found else None

    def _told(self) -> Proposal:
        """The newest proposal, once somebody was told of what has changed."""
        self.changed()
        return self.proposals()[-1]

    def _changed(self, proposal: Proposal, changes: list[str]) -> MigrationError:
        """What was shown is not so any more: what is so now is proposed, and that is told."""
        before = proposal.proposed
        now = self.propose(actor=before.who, reason=before.reason)
        anew = f". It is {now.short} now{now.see}" if now and now.digest != proposal.digest else ""
        return MigrationError(
            f"{proposal.short} is not approved, for what was shown has changed since:"
            f" {'; '.join(changes)}{anew}",
            digest=proposal.digest.hex(),
            changes=changes,
        )

    def _decidable(self, words: str, actor: str, verb: str) -> Proposal:
        found = self.proposals()
        proposal = pick(found, arguments.text(words, "digest", error=MigrationError))
        stopped = proposal.state is ProposalState.APPROVED and proposal.digest != self.running
        if proposal.state is not ProposalState.WAITING and not stopped:
            last, short = proposal.last, proposal.short
            newer = "" if proposal is found[-1] else f"; the newest is {found[-1].short}"
            why = f" ({last.error or last.reason})" if last.error or last.reason else ""
            raise MigrationError(
                f"{short} is decided: it is {proposal.state} since commit {last.seq} of"
                f" {last.actor or 'somebody'}{why}{newer}. `everlog propose` proposes what is pending anew",
                digest=proposal.digest.hex(),
                state=str(proposal.state),
            )
        self.rules.check(actor, proposal, verb)
        return proposal

    def _decide(self, proposal: Proposal, record: log_pb2.Migration, actor: str, reason: str) -> None:
        check_reason(reason)
        record.plan_digest = proposal.digest
        self._record(_named(record, proposal.plan), actor, reason, after=proposal)

    def _failed(self, proposal: Proposal, actor: str, error: Error) -> None:
        """Records it, unless the run has done so itself."""
        newest = self._newest()
        if newest is not None and newest.state is ProposalState.APPROVED:
            failed = log_pb2.Migration(step=Step.FAILED, error=str(error), plan_digest=proposal.digest)
            self._record(_named(failed, proposal.plan), actor, "", after=newest)

    def _rolled_back(self, plan: Plan) -> bool:
        """Whether all of a plan was rolled back or cancelled before, with the same folders."""
        back = rolled_back(self.db.migration_records())
        return all(
            one.version in back and back[one.version].migration.digest.hex() == one.digest
            for one in plan.migrations
        )

    def _draft(self) -> Plan | None:
        progress = self.stop.through(lambda _: check_going(self.db.uuid))
        return draft(self.db, self.source, name=self.name, hold=self.hold, progress=progress)

    def _record(self, record: log_pb2.Migration, actor: str, reason: str, *, after: Proposal | None) -> None:
        """Appends a record, if `after` is still the newest proposal, and nothing has become of it since."""

        def expect() -> None:
            newest = self._newest()
            if (newest.last.seq if newest else 0) != (after.last.seq if after else 0):
                assert newest is not None
                raise MigrationError(
                    f"{newest.short} is {newest.state} by now, since commit {newest.last.seq} of"
                    f" {newest.last.actor or 'somebody'}: nothing was recorded of what you decided",
                    digest=newest.digest.hex(),
                    state=str(newest.state),
                )

        self.db.apply_migration(record, actor=actor, reason=reason, expect=expect)


def _check_errors(proposal: Proposal, errors: list[str], *, despite: bool) -> None:
    """Raises MigrationError if the plan has errors now, unless it is to be approved despite them."""
    if errors and not despite:
        more = f" … and {len(errors) - ERRORS_SHOWN} more" if len(errors) > ERRORS_SHOWN else ""
        raise MigrationError(
            f"{proposal.short} has {len(errors)} {'errors' if len(errors) > 1 else 'error'}, and would fail:"
            f" {'; '.join(errors[:ERRORS_SHOWN])}{more}; mend that and propose it again, or approve it with"
            " --despite-errors and a reason",
            digest=proposal.digest.hex(),
            errors=len(errors),
        )


def _named(record: log_pb2.Migration, plan: Plan) -> log_pb2.Migration:
    record.version, record.name = plan.to_version, plan.migrations[-1].name
    return record
