"""Plan: which members are upgraded, from which version to which, by which code; frozen for review.

    surveys ─▶ refusals ─▶ draft ─▶ document (JSON) ─▶ digest: SHA-256 of exactly these bytes
                                        │
    surveys later ─▶ changes: why it is stale          approval binds the digest (fleet/approvals.py)
                                        └─▶ targets: what FleetCoordinator.start gets

A plan brings each member to one version, by one migration. A plan in unison contains only what a vote can
hold; one for waves may also contain migrations that cannot wait for a decision.

Rows and durations change all the time, and alone do not make a plan stale. These do: a member joined, left,
was renamed, was upgraded, restored or forked, has other folders, would do another step, or a step that fails;
a new finding of lint.

Invariants
  (1) A digest identifies all that was reviewed: members, versions, folders, steps, findings.
  (2) Members are in the order of their UUIDs: the same surveys give the same bytes.
  (3) A document stays readable: fields are only added, with a default.

The keys of the document: docs/format.md, "Plans of a fleet".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

import msgspec

from everlog.feed import cursor
from everlog.fleet.protocol import Target
from everlog.fleet.survey import SHORT, Intended, Survey, is_newer, listed
from everlog.migrations.approval.approval import outline
from everlog.migrations.proposal import FindingEntry, lint_errors, plan_digest
from everlog.store.errors import CorruptionError, MigrationError, quantity
from everlog.store.upkeep.status import software


class FolderEntry(msgspec.Struct, frozen=True):
    """The migration that the plan applies: the digest of its folder, and what it does at any member, in words
    without numbers of rows."""

    version: int
    name: str
    digest: str
    steps: list[str]

    @property
    def title(self) -> str:
        """Version and name, as in 20260105093000_create_airports."""
        return f"{self.version}_{self.name}"


class MemberEntry(msgspec.Struct, frozen=True, rename={"from_version": "from", "to_version": "to"}):
    """One member of the plan.

    `database`: its UUID; `at`: its position when it was surveyed. `digest`: of the folder of `to`; `folders`:
    of all folders of its code. `steps`: which of the steps of the migration it does. `rows`, `seconds` and
    `waits_s` (writers wait) are estimated, as are `bytes` of disk. `linted`: whether lint ran. `unheld`: why
    it cannot wait for a decision; empty in a plan in unison.
    """

    database: str
    name: str
    at: str
    from_version: int
    to_version: int
    digest: str
    folders: str
    steps: list[int]
    rows: int = 0
    seconds: float = 0.0
    waits_s: float = 0.0
    bytes: int = 0
    linted: bool = True
    unheld: str = ""


class Totals(msgspec.Struct, frozen=True):
    """The sums over all members; `longest_s` is the time of the slowest."""

    members: int = 0
    rows: int = 0
    seconds: float = 0.0
    longest_s: float = 0.0
    bytes: int = 0


class FleetPlan(msgspec.Struct, frozen=True, rename={"to_version": "to"}, omit_defaults=True):
    """The document to review. `hold`: both versions are served after the switch, until the run is contracted.
    `unison`: all members or none, by one decision; otherwise in waves. `selector`: which members it is about;
    those that match later have joined."""

    to_version: int
    hold: bool
    unison: bool
    migration: FolderEntry
    members: list[MemberEntry]
    findings: list[FindingEntry]
    totals: Totals
    selector: str = ""

    @property
    def errors(self) -> list[str]:
        """The errors of lint, as sentences."""
        return lint_errors(self.findings)

    def encode(self) -> bytes:
        """Return the document as JSON: always the same bytes for the same plan."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=1)

    @property
    def digest(self) -> bytes:
        """The digest of the document, 32 bytes. Of a document that was read, digest its own bytes."""
        return plan_digest(self.encode())

    @property
    def unheld(self) -> bool:
        """Whether the migration cannot wait for a decision at some member."""
        return any(one.unheld for one in self.members)

    def targets(self) -> tuple[Target, ...]:
        """Return the members for `FleetCoordinator.start`."""
        return tuple(
            Target(
                UUID(one.database).bytes,
                one.from_version,
                one.to_version,
                bytes.fromhex(one.folders),
                self.hold,
            )
            for one in self.members
        )


def decode_plan(document: bytes) -> FleetPlan:
    """Parse a document. Raises CorruptionError if it is invalid."""
    try:
        return msgspec.json.decode(document, type=FleetPlan)
    except msgspec.MsgspecError as error:
        raise CorruptionError(f"expected the plan of a fleet as JSON, found: {error}") from None


class Refusal(NamedTuple):
    """A member that a plan cannot contain, and the reason. `database`: its UUID as text; empty: unknown."""

    database: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def target_of(surveys: Iterable[Survey]) -> int:
    """Return the version of the next upgrade: the oldest pending one of any member; 0: none is pending."""
    return min((one.version for survey in surveys for one in survey.pending), default=0)


def refusals(surveys: Iterable[Survey], to: int, *, unison: bool = True) -> list[Refusal]:
    """Return the members that cannot be upgraded to a version, with the reason. Those that are at the version
    already, or at a newer one, have none."""
    surveys = list(surveys)
    found = list(_repeated(surveys))
    outdated = [one for one in surveys if one.version < to or one.problem]
    digests = Counter(entry.folder for one in outdated for entry in one.pending if entry.version == to)
    most = digests.most_common(1)[0][0] if digests else ""
    known = {refusal.database for refusal in found}
    return found + [
        Refusal(one.database, one.name, why)
        for one in outdated
        if one.database not in known and (why := _refusal(one, to, most, unison=unison))
    ]


def _repeated(surveys: Iterable[Survey]) -> Iterator[Refusal]:
    """Yield the members that have the UUID or the name of an earlier one."""
    databases, names = dict[str, Survey](), dict[str, Survey]()
    for one in surveys:
        if (other := databases.setdefault(one.database, one)) is not one:
            why = f"it is the same database as {other.name}, {one.database}; remove one of the two"
            yield Refusal(one.database, one.name, why)
        elif (other := names.setdefault(one.name, one)) is not one:
            why = f"database {other.database} has the same name; rename one of them"
            yield Refusal(one.database, one.name, why)


def _refusal(one: Survey, to: int, most: str, *, unison: bool) -> str:
    """Return why a member cannot be upgraded to a version, or an empty string. `most`: the digest of the
    folder of that version at most members."""
    if one.problem:
        return one.problem
    if is_newer(one.software):
        return f"it is served by {one.software}, and this is {software()}; update this everlog first"
    entry = next((entry for entry in one.pending if entry.version == to), None)
    if entry is None:
        newest = max((entry.version for entry in one.migrations), default=0)
        return f"its code has no migration {to} (its newest is {newest}); deploy the code of the others there"
    if entry.folder != most:
        return (
            f"its folder of {entry.title} has digest {entry.folder[:SHORT]} instead of {most[:SHORT]},"
            " the most common one; deploy the same code"
        )
    if one.intended is not None and one.intended.version == to:
        return _unfit(one.intended, unison=unison)
    first = one.pending[0]
    older = sum(entry.version <= to for entry in one.pending)
    return (
        f"{older} migrations are pending there up to {to}, and a run applies one; upgrade to {first.title}"
        f" first (`--to-version {first.version}`)"
    )


def _unfit(intended: Intended, *, unison: bool) -> str:
    """Return why the next migration of a member cannot be planned, or an empty string."""
    cost = intended.estimate
    failing = [step.text for step in intended.steps if step.problem]
    if unison and intended.unheld:
        return f"{intended.unheld}; or upgrade in waves"
    if failing:
        return f"{'; '.join(failing)}; fix its rows or the migration"
    if not cost.fits:
        return (
            f"it needs {cost.bytes:,} bytes of disk until the upgrade has ended, and {cost.free_bytes:,} are"
            " free; make room"
        )
    return ""


def draft(
    surveys: Iterable[Survey],
    to: int | None = None,
    *,
    hold: bool = False,
    unison: bool = True,
    selector: str = "",
    problems: Iterable[Refusal] = (),
) -> FleetPlan:
    """Return the plan that upgrades these members to a version.

    `to`: None: the oldest version that is pending anywhere. `hold`: both versions are served after the
    switch; survey with the same `hold`. Members that have the version are left out. `selector`: which members
    it is about. `problems`: of those among them that could not be surveyed. Raises MigrationError if none
    lacks the version, and with all reasons (`refusals`) if a member cannot be upgraded.
    """
    surveys = sorted(surveys, key=lambda one: one.database)
    to = to or target_of(surveys)
    problems = list(problems)
    refused = problems + refusals(surveys, to, unison=unison)
    if refused:
        raise MigrationError(
            f"{quantity(len(refused), 'member')} of {len(surveys) + len(problems):,} cannot be upgraded"
            f"{' in unison' if unison else ''} to {to}, so there is no plan:"
            f" {listed(refused)}",
            refusals=refused,
        )
    chosen = [one for one in surveys if one.version < to]
    if not chosen:
        raise MigrationError(
            f"none of {quantity(len(surveys), 'member')} has a pending migration"
            f"{f' to {to}' if to else ''}, so there is nothing to plan",
            refusals=[],
        )
    for one in chosen if hold else ():
        if one.intended is not None and one.intended.unheld:
            raise MigrationError(
                f"{one.name} cannot wait for a decision ({one.intended.unheld}), so no run could end its two"
                " versions; plan without hold",
                refusals=[],
            )
    texts = list(dict.fromkeys(text for one in chosen for text in _steps(one)))
    members = [_entry(one, texts) for one in chosen]
    first = chosen[0].intended
    assert first is not None
    return FleetPlan(
        to,
        hold,
        unison,
        FolderEntry(first.version, first.name, first.digest, texts),
        members,
        sorted(
            {_finding_key(finding): finding for one in chosen for finding in one.findings}.values(),
            key=_finding_key,
        ),
        Totals(
            len(members),
            sum(one.rows for one in members),
            round(sum(one.seconds for one in members), 3),
            max(one.seconds for one in members),
            sum(one.bytes for one in members),
        ),
        selector,
    )


def _entry(one: Survey, texts: Sequence[str]) -> MemberEntry:
    intended = one.intended
    assert intended is not None
    cost = intended.estimate
    return MemberEntry(
        one.database,
        one.name,
        one.at,
        one.version,
        intended.version,
        intended.digest,
        one.folders,
        [texts.index(text) for text in _steps(one)],
        cost.rows,
        round(cost.seconds, 3),
        round(cost.waits_s, 3),
        cost.bytes,
        one.linted,
        intended.unheld,
    )


def _steps(one: Survey) -> list[str]:
    """Return the steps of a member's next migration, without numbers of rows."""
    assert one.intended is not None
    return [key.partition(" ")[2] for key in outline(one.intended.steps)]


def _finding_key(one: FindingEntry) -> tuple[str, int, str]:
    return one.file, one.line, one.id


def changes(plan: FleetPlan, surveys: Iterable[Survey]) -> list[str]:
    """Return why a plan is stale, a sentence each; empty if it still holds. `surveys`: of all selected
    members, as they are now."""
    now = {one.database: one for one in surveys}
    planned = {one.database: one for one in plan.members}
    found = [
        f"{entry.name} left: database {database} is not surveyed any more"
        for database, entry in planned.items()
        if database not in now
    ]
    found += [
        f"{one.name} joined, at version {one.version}: database {database} is not in the plan"
        for database, one in sorted(now.items())
        if database not in planned and one.version < plan.to_version
    ]
    for entry in plan.members:
        if entry.database in now:
            found += _of_member(plan, entry, now[entry.database])
    known = {_finding_key(one) for one in plan.findings}
    new = {_finding_key(one): one for survey in now.values() for one in survey.findings}
    return found + [
        f"{one.file}:{one.line}: {one.id} is a new finding ({one.text})"
        for key, one in sorted(new.items())
        if key not in known
    ]


def _of_member(plan: FleetPlan, was: MemberEntry, now: Survey) -> Iterator[str]:
    name = was.name
    if now.name != name:
        yield f"{name} is now named {now.name}"
    if now.version != was.from_version:
        yield f"{name} moved: it is at version {now.version} instead of {was.from_version}"
        return
    before, after = cursor.parse(was.at), cursor.parse(now.at)
    if after.seq < before.seq:
        yield (
            f"{name} went back: its newest record is {after.seq}, it was {before.seq}; it was restored from a"
            " backup"
        )
    elif after.seq == before.seq and after.checksum != before.checksum:
        yield f"{name} is a fork: its record {after.seq} has another checksum than when it was planned"
    if now.folders != was.folders:
        yield _other_code(was, now)
        return
    if now.problem:
        yield f"{name} cannot be migrated any more: {now.problem}"
        return
    if now.intended is None or now.intended.version != was.to_version:
        yield f"{name} would not be upgraded to {was.to_version} next"
        return
    if plan.unison and now.intended.unheld:
        yield f"{name} cannot wait for a decision any more: {now.intended.unheld}"
    yield from (f"{name}: {step.text}" for step in now.intended.steps if step.problem)
    texts = plan.migration.steps
    expected, found = [texts[at] for at in was.steps], _steps(now)
    if not any(step.problem for step in now.intended.steps):
        yield from (f"{name} no longer does: {text}" for text in expected if text not in found)
        yield from (f"{name} now does: {text}" for text in found if text not in expected)


def _other_code(was: MemberEntry, now: Survey) -> str:
    """Say that a member has other folders: which one is known only for the migration of the plan."""
    entry = next((one for one in now.migrations if one.version == was.to_version), None)
    if entry is None:
        return f"{was.name} has other code: it has no migration {was.to_version} any more"
    if entry.folder != was.digest:
        return (
            f"{was.name} has other code: {entry.title} was edited, its folder has digest"
            f" {entry.folder[:SHORT]} instead of {was.digest[:SHORT]}"
        )
    edited = [one.title for one in now.migrations if one.state in ("edited", "missing")]
    why = f" ({', '.join(edited)} was edited or is missing)" if edited else ""
    return (
        f"{was.name} has other code: its folders have digest {now.folders[:SHORT]} instead of"
        f" {was.folders[:SHORT]}{why}"
    )
