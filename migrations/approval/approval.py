"""Approval: pending migrations are applied after an authorised person approved their plan.

    propose ─▶ PROPOSED ─▶ approve: who? still the same? ─▶ APPROVED ─▶ run ─▶ applied, or FAILED
                        └▶ reject ─▶ REJECTED

Each step is a record of the log, with who, when and why. A proposal that is still valid is not made again, by
any caller: a server that restarts continues with it.

The plan that was reviewed is compared with the plan now:

    folders + database ─▶ draft ─┬─▶ reviewed:  Plan, with rows as of commit `at`
                                 └─▶ later:     differences(reviewed, now)

Row counts and durations change all the time, and alone do not make a different plan. These do: a different
folder or file, starting version or database; a step more or less; a step over a table that was empty and no
longer is; a new finding.

Other changes of the schema need a name and a reason too, like a decision (`Approval.allowed`):

    up, load, prepare    nobody: their effect has not been reviewed
    rollback             who may approve the migration, if no proposal waits or runs
    complete, baseline   who may approve: they bring no schema, and change no row
    accept               who may approve: the folder has different code than the approved one
    cancel               who may approve (`Approval.cancel`)
    commit-prepared,     who may approve: it was prepared before approval was required here
    abort-prepared

See docs/checked.md, "Who may".

Invariants
  (1) Only approved plans are applied, exactly as they were approved.
  (2) An interrupted run is resumed, because its last record in the log is APPROVED.
  (3) Of two decisions one wins: each is made while holding the lock of the database, its record is appended
      only if the proposal has not changed, and `approve_and_run` holds the lock throughout.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from everlog.migrations import digest, in_progress
from everlog.migrations.bootstrap import bootstrap
from everlog.migrations.folder import SOURCE, Source, find, withheld_digest
from everlog.migrations.lint.lint import lint
from everlog.migrations.lint.rules import Finding
from everlog.migrations.loader import load
from everlog.migrations.lock import Stop, check_going, lock
from everlog.migrations.migration import Migration
from everlog.migrations.plan import PlannedStep, load_for, pending, plan
from everlog.migrations.proposal import (
    FindingEntry,
    MigrationEntry,
    Plan,
    Proposal,
    ProposalState,
    Rules,
    Step,
    StepEntry,
    check_reason,
    kept_files,
    pick,
    proposals,
    record_of,
)
from everlog.migrations.runner import apply
from everlog.migrations.status import MigrationInfo, rolled_back
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import ClosedError, DiskError, Error, MigrationError
from everlog.store.program_log import about
from everlog.store.progress import OnProgress
from everlog.store.schema import arguments
from everlog.store.tx.transaction import Metadata

ERRORS_SHOWN = 3
_SETTLED = (ProposalState.REJECTED, ProposalState.FAILED, ProposalState.ROLLED_BACK)

REFUSED = ("up", "load", "prepare")
_VERBS = {
    "rollback": "roll back",
    "complete": "complete a migration of",
    "baseline": "baseline",
    "accept": "accept folders of",
    "commit-prepared": "commit a prepared migration of",
    "abort-prepared": "abort a prepared migration of",
}

_ROWS = re.compile(r"\b([\d,]+) (?:existing )?rows?\b")
# What differs between two plans of the same work: durations, and which rows failed. Plans of earlier versions
# say "some" instead of "about".
_VARIES = re.compile(r",? (?:some|about|in) [\d.,]+ m?s\b| FAILS for .*")

logger = logging.getLogger("everlog")


@dataclass
class Approval:
    """The approvals of one database. `source` are its migrations, `name` is its name for people.

    `hold` and `rate` are passed to `apply`. `changed` is called after each record, and when a run starts.
    Safe to use from many threads.
    """

    db: Database
    source: Source = SOURCE
    name: str = ""
    rules: Rules = field(default_factory=Rules)
    link: Callable[[bytes], str] = lambda _: ""  # the URL of a digest's page
    changed: Callable[[], None] = lambda: None
    hold: bool = False
    rate: float | None = None
    stop: Stop = field(default_factory=Stop)  # interrupts a run, which is resumed later

    running: bytes = b""  # digest of the plan being applied now
    problem: str = ""  # why the pending migrations can neither be proposed nor applied
    on_problem: Callable[[], None] = lambda: None  # called when `problem` changes

    def proposals(self) -> list[Proposal]:
        """Return all proposals, oldest first. Read-only."""
        found = proposals(self.db)
        for one in found:
            one.url = self.link(one.digest)
        return found

    def propose(self, *, actor: str = "", reason: str = "", again: bool = False) -> Proposal | None:
        """Propose the pending migrations, unless the newest proposal is the same. Return it; None if none is
        pending.

        A plan that was rejected or failed is proposed again only with `again`. `actor` and `reason` go into
        the log. Writes one record or none. Raises MigrationError and SchemaError for migrations that could
        not be applied.
        """
        Metadata(actor, reason).check()
        with lock(self.db.uuid, actor, reenter=True):
            if (undecided := in_progress.undecided(in_progress.current_migration(self.db))) is not None:
                if again:
                    raise undecided
                logger.warning("%s: %s", self.name or self.db.url, undecided, extra=self._about("prepared"))
                return self._newest()
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
            self._record(record_of(now, kept_files(now, migrations)), actor, reason, after=newest)
        return self._notified()

    def approve(self, words: str, *, actor: str, reason: str, despite_errors: bool = False) -> Proposal:
        """Approve the proposal whose digest starts with `words`; `run` then applies it. Return it.

        A plan with errors (`Plan.errors`) needs `despite_errors`, which is recorded. Writes one record.
        Raises MigrationError if `actor` may not approve, if the proposal is already decided, or if the plan
        has changed: then nothing is approved, and the current plan is proposed.
        """
        Metadata(actor, reason).check()
        self._check_decidable(words, actor, "approve")  # fail before waiting for the lock
        with lock(self.db.uuid, actor, reenter=True) as holder:
            proposal = self._check_decidable(words, actor, "approve")
            holder.at = proposal.plan.to_version, proposal.plan.migrations[-1].name
            in_progress.check_undecided(in_progress.current_migration(self.db))
            if proposal.state is ProposalState.APPROVED:
                return proposal  # it was interrupted, and resumes
            now = self._draft()
            changes = differences(proposal.plan, now)
            if now is not None and not changes:
                _check_errors(proposal, now.errors, despite=despite_errors)
                step = log_pb2.Migration(step=Step.APPROVED, despite_errors=bool(now.errors))
                self._decide(proposal, step, actor, reason)
        if changes:
            raise self._refusal(proposal, changes)
        return self._notified()

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
        """Do `approve` and `run` without letting any other decision in between.

        `approved` is called between the two. Returns and raises as they do.
        """
        Metadata(actor, reason).check()
        self._check_decidable(words, actor, "approve")
        with lock(self.db.uuid, actor, reenter=True):
            proposal = self.approve(words, actor=actor, reason=reason, despite_errors=despite_errors)
            if approved is not None:
                approved(proposal)
            return self.run(progress=progress, applied=applied)

    def reject(self, words: str, *, actor: str, reason: str) -> Proposal:
        """Reject a proposal, so that it is not applied. Return it.

        An approved one whose run was interrupted is given up without a trace. Writes one record. Raises
        MigrationError if `actor` may not reject, or if the proposal is already decided.
        """
        Metadata(actor, reason).check()
        self._check_decidable(words, actor, "reject")
        with lock(self.db.uuid, actor, reenter=True):
            proposal = self._check_decidable(words, actor, "reject")
            begun = in_progress.current_migration(self.db) is not None
            if begun and proposal.state is ProposalState.APPROVED:
                check_reason(reason)
                in_progress.give_up(self.db, Metadata(actor, reason))
            else:
                self._decide(proposal, log_pb2.Migration(step=Step.REJECTED), actor, reason)
        return self._notified()

    def cancel(self, *, actor: str, reason: str) -> MigrationInfo:
        """Stop the migration in progress and give it up; see `everlog.migrations.cancel`.

        Only for those who may approve. Writes one record. Raises MigrationError.
        """
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
        """Apply the approved proposal, and return it with its new state. Reads and writes continue meanwhile.

        Raises MigrationError if none is approved. If the run fails, records FAILED and raises the error.
        """
        with lock(self.db.uuid, "what was approved", progress=progress, reenter=True):
            proposal = self._newest()
            if proposal is None or proposal.state is not ProposalState.APPROVED:
                raise MigrationError("no approved proposal waits to be applied")
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
                if (
                    not isinstance(error, (ClosedError, DiskError))
                    and in_progress.current_migration(self.db) is None
                ):
                    self._failed(proposal, approved.who, error)
                raise  # otherwise the plan is not at fault: it stays approved, and is resumed
            finally:
                self.running = b""
                self.changed()
        return self._notified()

    def prepare(self) -> None:
        """Do the instant work that must precede any write: give a migration in progress its code.

        Raises MigrationError and SchemaError for folders that cannot be applied.
        """
        migrations = load(self.source)
        in_progress.attach(self.db, migrations)
        pending(self.db, migrations)

    def prepare_or_report(self) -> None:
        """Like `prepare`, but store an error in `problem`, serve the current version, and notify
        operators.
        """
        try:
            self.prepare()
        except (Error, OSError) as error:
            self._has_problem(str(error))

    def start(self, *, actor: str = "", reason: str = "") -> None:
        """Resume an approved proposal that this process found unfinished, and propose pending migrations.

        Returns when that is done. Errors are logged, and those of proposing become `problem`.
        """
        if self.problem:
            return
        try:
            newest = self._newest()
            if newest is not None and newest.state is ProposalState.APPROVED:
                self.run()
        except Error as error:
            logger.error("%s: %s", self.name or self.db.url, error, extra=self._about("run_failed"))  # noqa: TRY400  the message suffices
        try:
            self.propose(actor=actor, reason=reason)
        except ClosedError as error:
            logger.warning("%s: %s", self.name or self.db.url, error, extra=self._about("interrupted"))
        except Error as error:
            self._has_problem(str(error))

    def refuse(self, verb: str) -> NoReturn:
        """Raise MigrationError for another way to migrate: approval is required here."""
        newest = self._newest()
        known = newest is not None and newest.state is not ProposalState.FINISHED
        where = f"the pending migration {newest.says}" if newest and known else "run `everlog propose`"
        raise MigrationError(
            f"{self.name or self.db.url} is migrated after approval, not by `{verb}`: {where}"
        )

    def _has_problem(self, problem: str) -> None:
        if problem:
            logger.error(
                "%s: migrations cannot be applied, version %d is served: %s",
                *(self.name or self.db.url, self.db.schema.version, problem),
                extra=self._about("unusable"),
            )
        if problem != self.problem:
            self.problem = problem
            self.on_problem()
            self.changed()

    def _about(self, what: str) -> Any:
        return about(f"migration.{what}", database=str(self.db.path))

    def _newest(self) -> Proposal | None:
        found = self.proposals()
        return found[-1] if found else None

    def _notified(self) -> Proposal:
        """Call `changed`, and return the newest proposal."""
        self.changed()
        return self.proposals()[-1]

    def _refusal(self, proposal: Proposal, changes: list[str]) -> MigrationError:
        """Propose the current plan, and return the error that says what has changed."""
        before = proposal.proposed
        now = self.propose(actor=before.who, reason=before.reason)
        anew = (
            f". The current proposal is {now.short}{now.see}" if now and now.digest != proposal.digest else ""
        )
        return MigrationError(
            f"{proposal.short} is not approved, because its plan has changed: {'; '.join(changes)}{anew}",
            digest=proposal.digest.hex(),
            changes=changes,
        )

    @contextmanager
    def allowed(self, verb: str, *, actor: str, reason: str) -> Iterator[None]:
        """Check that `actor` may change the schema by `verb`, and exclude other changes during the block.

        Raises MigrationError. Writes nothing itself.
        """
        self._check_allowed(verb, actor, reason)  # fail before waiting for the lock
        with lock(self.db.uuid, actor, reenter=True):
            self._check_allowed(verb, actor, reason)
            yield
        self.changed()

    def _check_allowed(self, verb: str, actor: str, reason: str) -> None:
        if verb in REFUSED:
            self.refuse(verb)
        found, rules, name = self.proposals(), self.rules, self.name or self.db.url
        newest = found[-1] if found else None
        if verb == "rollback" and newest is not None:
            if newest.state in (ProposalState.WAITING, ProposalState.APPROVED):
                self.refuse(verb)
            if newest.state is ProposalState.FINISHED:
                rules.check(actor, newest, _VERBS[verb])
        rules.check_name(actor, _VERBS[verb], name)
        check_reason(reason)

    def _check_decidable(self, words: str, actor: str, verb: str) -> Proposal:
        found = self.proposals()
        proposal = pick(found, arguments.text(words, "digest", error=MigrationError))
        stopped = proposal.state is ProposalState.APPROVED and proposal.digest != self.running
        if proposal.state is not ProposalState.WAITING and not stopped:
            last, short = proposal.last, proposal.short
            newer = "" if proposal is found[-1] else f"; the newest is {found[-1].short}"
            why = f" ({last.error or last.reason})" if last.error or last.reason else ""
            done = proposal.state is ProposalState.FINISHED
            again = "" if done else ". `everlog propose` proposes the pending migrations again"
            raise MigrationError(
                f"{short} is already decided: {proposal.state} since commit {last.seq} by"
                f" {last.actor or 'an unnamed caller'}{why}{newer}{again}",
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
        """Record the failure, unless the run has already done so."""
        newest = self._newest()
        if newest is not None and newest.state is ProposalState.APPROVED:
            failed = log_pb2.Migration(step=Step.FAILED, error=str(error), plan_digest=proposal.digest)
            self._record(_named(failed, proposal.plan), actor, "", after=newest)

    def _rolled_back(self, plan: Plan) -> bool:
        """Whether all migrations of a plan were rolled back or cancelled before, with the same folders."""
        back = rolled_back(self.db.migration_records())
        return all(
            one.version in back and back[one.version].migration.digest.hex() == one.digest
            for one in plan.migrations
        )

    def _draft(self) -> Plan | None:
        progress = self.stop.through(lambda _: check_going(self.db.uuid))
        return draft(self.db, self.source, name=self.name, hold=self.hold, progress=progress)

    def _record(self, record: log_pb2.Migration, actor: str, reason: str, *, after: Proposal | None) -> None:
        """Append a record if `after` is still the newest proposal, with the same last event."""

        def expect() -> None:
            newest = self._newest()
            if (newest.last.seq if newest else 0) != (after.last.seq if after else 0):
                assert newest is not None
                raise MigrationError(
                    f"{newest.short} is now {newest.state}, since commit {newest.last.seq} by"
                    f" {newest.last.actor or 'an unnamed caller'}: your decision was not recorded",
                    digest=newest.digest.hex(),
                    state=str(newest.state),
                )

        self.db.apply_migration(record, actor=actor, reason=reason, expect=expect)


def _check_errors(proposal: Proposal, errors: list[str], *, despite: bool) -> None:
    """Raise MigrationError if the current plan has errors, unless it is to be approved despite them."""
    if errors and not despite:
        more = f" … and {len(errors) - ERRORS_SHOWN} more" if len(errors) > ERRORS_SHOWN else ""
        raise MigrationError(
            f"{proposal.short} has {len(errors)} {'errors' if len(errors) > 1 else 'error'}, and would"
            f" fail: {'; '.join(errors[:ERRORS_SHOWN])}{more}; fix them and propose it again, or approve"
            " it with --despite-errors and a reason",
            digest=proposal.digest.hex(),
            errors=len(errors),
        )


def _named(record: log_pb2.Migration, plan: Plan) -> log_pb2.Migration:
    record.version, record.name = plan.to_version, plan.migrations[-1].name
    return record


def draft(
    db: Database,
    source: Source = SOURCE,
    *,
    name: str = "",
    hold: bool = False,
    progress: OnProgress | None = None,
) -> Plan | None:
    """Return the plan of the pending migrations, or None if none is pending. Read-only.

    Runs the folders' code, on every row that would be rewritten. Raises MigrationError and SchemaError as
    `apply` would before it writes.
    """
    at = db.head
    todo = pending(db, load_for(db, source))
    if not todo:
        return None
    tried = plan(db, source, try_rows=True, hold=hold, linted=True, progress=progress)
    planned = {one.version: one.steps for one in tried}
    return Plan(
        database=str(uuid.UUID(bytes=db.uuid)),
        name=name,
        at=at,
        from_version=db.schema.version,
        to_version=todo[-1].version,
        migrations=[
            MigrationEntry(
                migration.version,
                migration.name,
                migration.folder.digest.hex(),
                _digests(db, migration),
                [step_entry(step) for step in planned[migration.version]],
            )
            for migration in todo
        ],
        findings=_findings(db, source, progress),
        hold=hold,
    )


def _digests(db: Database, migration: Migration) -> dict[str, str]:
    """Return the SHA-256 of each file; for files with rows of sealed tables, a digest that confirms no
    guess.
    """
    hidden, vault = bootstrap(migration).withheld, db.tables.vault
    return {
        file.path: f"hmac:{withheld_digest(file, migration.folder, vault).hex()}"
        if file.path in hidden
        else digest.sha256(file).hex()
        for file in migration.folder.sources
    }


def differences(reviewed: Plan, now: Plan | None) -> list[str]:
    """Return what has changed since the plan was reviewed, as clauses; empty if it is still valid."""
    if now is None:
        return ["no migration is pending any more"]
    found = []
    if reviewed.database != now.database:
        found.append(f"the database is {now.database} instead of {reviewed.database}")
    if reviewed.from_version != now.from_version:
        found.append(f"the database is at version {now.from_version} instead of {reviewed.from_version}")
    if reviewed.hold != now.hold:
        found.append("two versions would be served" if now.hold else "only one version would be served")
    was = {one.version: one for one in reviewed.migrations}
    are = {one.version: one for one in now.migrations}
    found += [f"migration {was[version].title} is missing" for version in sorted(was.keys() - are.keys())]
    found += [f"migration {are[version].title} is new" for version in sorted(are.keys() - was.keys())]
    for version in sorted(was.keys() & are.keys()):
        found += _of_migration(was[version], are[version])
    known = {(one.id, one.file, one.line) for one in reviewed.findings}
    found += [
        f"{one.file}:{one.line}: {one.id} is a new finding ({one.text})"
        for one in now.findings
        if (one.id, one.file, one.line) not in known
    ]
    return found


def check_same(plan: Plan, todo: Iterable[Migration]) -> None:
    """Raise MigrationError if these migrations are not those of the plan."""
    reviewed = {one.version: one.digest for one in plan.migrations}
    for migration in todo:
        if reviewed.get(migration.version) not in {one.hex() for one in migration.folder.digests}:
            raise MigrationError(
                f"migration {migration.title} was edited after it was approved: its folder has digest"
                f" {migration.folder.digest.hex()[:12]} instead of"
                f" {reviewed.get(migration.version, 'none')[:12]}; nothing was applied",
                version=migration.version,
            )


def _of_migration(was: MigrationEntry, now: MigrationEntry) -> Iterator[str]:
    if was.digest != now.digest or was.title != now.title:
        files = [
            f"{path} {_change(was.files.get(path), now.files.get(path))}"
            for path in sorted(was.files | now.files)
            if was.files.get(path) != now.files.get(path)
        ]
        yield f"migration {was.title} was edited: {', '.join(files) or f'it is now {now.title}'}"
    before, after = outline(was.steps), outline(now.steps)
    yield from (f"{was.title} no longer does: {text}" for text in before if text not in after)
    yield from (f"{was.title} now does: {after[text]}" for text in after if text not in before)


def _change(was: str | None, now: str | None) -> str:
    return "is new" if was is None else "is missing" if now is None else "has changed"


def step_entry(step: PlannedStep) -> StepEntry:
    """Return a step as a plan has it: without the row that fails."""
    return StepEntry(step.text, step.instant, step.rows, step.problem)


def outline(steps: Iterable[StepEntry]) -> dict[str, str]:
    """Index steps by their text without row counts, but with whether there are rows and whether the step
    fails.
    """
    return {f"{step.problem} {_without_numbers(step.text)}": step.text for step in steps}


def _without_numbers(text: str) -> str:
    return _ROWS.sub(lambda found: "no rows" if found[1] == "0" else "rows", _VARIES.sub("", text))


def _findings(db: Database, source: Source, progress: OnProgress | None) -> list[FindingEntry]:
    """Return the findings of lint about the folders and this database's data."""
    return finding_entries(lint(source, db, progress=progress), find(source).path)


def finding_entries(found: Iterable[Finding], root: Path) -> list[FindingEntry]:
    """Return findings of lint as a plan has them. `root`: the directory of the migrations."""
    return [
        FindingEntry(one.id, str(one.severity), _relative(one.file, root), one.line, one.text, one.fix)
        for one in found
    ]


def _relative(file: str | Path, root: Path) -> str:
    """Return a path relative to the migrations, so that it is the same on every machine."""
    path = Path(file)
    return path.resolve().relative_to(root).as_posix() if path.resolve().is_relative_to(root) else path.name
