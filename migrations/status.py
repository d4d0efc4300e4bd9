"""Status: every migration that the code or the database knows, and its state.

    in the database   in the code    state
    no                yes            pending
    in part           either         building   it resumes where it stopped
    yes               yes, same      applied    or an edit of its folder was accepted (`accept`)
    yes               yes, edited    edited     its folder changed after it ran
    yes               no, newer are  missing    its folder is missing
    yes               no, none newer ahead      newer code than this applied it

A migration is `late` if it comes, or came, after one with a newer timestamp. One that is
`rolling_back` is still in force, and its rollback has started.

The database's part is folded from the Migration records of its log, in order, and from no table that could
disagree. Runs no code of a migration.

    STARTED ─▶ BACKFILL* ─▶ PREPARED? ─▶ SWITCHED? ─▶ FINISHED ─▶ ROLLED_BACK ─▶ FINISHED …
       └─ building ──────────────────────────────┘    applied     none            applied
       └─▶ FAILED, ROLLED_BACK: none

    FINISHED ─▶ STARTED back ─▶ BACKFILL* ─▶ ROLLED_BACK: none
                applied, `back` └──────────▶ FAILED back: applied

A `LoggedMigration` begins with the first record after the end of the previous one of that version. PROPOSED,
APPROVED and REJECTED do not begin one. ACCEPTED makes an edited folder count as the one that ran.

`differences` compares the files in the log, as they ran, with those on disk, as a unified diff.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from everlog.migrations.folder import SOURCE, Folder, Source, compared_contents, find, folders, same_content
from everlog.proto import log_pb2
from everlog.store.crypto.vault import Vault
from everlog.store.database import Database
from everlog.store.online.apply import Recorded
from everlog.store.online.backfill import built_rows, total_rows

_Step = log_pb2.Migration
_BUILDING = (_Step.STARTED, _Step.BACKFILL, _Step.PREPARED, _Step.SWITCHED)


class LoggedMigration(msgspec.Struct):
    """One migration that is in the database, whole (`finished`) or in part."""

    began: Recorded
    last: Recorded
    sources: list[log_pb2.SourceFile]
    digest: bytes
    back: Recorded | None = None  # the start of its rollback, while that is in progress
    accepted: list[Recorded] = msgspec.field(default_factory=list)  # accepted edits, oldest first

    @property
    def version(self) -> int:
        return self.last.migration.version

    @property
    def title(self) -> str:
        return f"{self.version}_{self.began.migration.name}"

    @property
    def finished(self) -> bool:
        return self.last.migration.step == _Step.FINISHED

    @property
    def adopted(self) -> bool:
        """Whether it was recorded without being run, by `load` or `baseline`."""
        return self.finished and not self.sources

    def matches(self, folder: Folder, vault: Vault | None = None) -> bool:
        """Whether a folder does the same as the applied one, or was accepted for it. Read-only.

        `vault` has the keys of files that were withheld from the log.
        """

        def same(recorded: bytes, file: log_pb2.SourceFile) -> bool:
            return same_content(recorded, file, folder, vault)

        records = [(self.digest, self.sources)]
        records += [(one.migration.digest, list(one.migration.sources)) for one in self.accepted]
        return any(folder.is_as(digest, sources, same) for digest, sources in records)

    @property
    def newest_sources(self) -> list[log_pb2.SourceFile]:
        """The folder as it was last recorded: as it ran, or as it was last accepted."""
        return list(self.accepted[-1].migration.sources) if self.accepted else self.sources

    @property
    def held(self) -> bool:
        """Whether it has switched, and the previous version is served as well."""
        return self.last.migration.step == _Step.SWITCHED

    @property
    def waiting(self) -> log_pb2.Migration | None:
        """The record with the decision that it waits for, or is being prepared for; None: with none."""
        one = self.last.migration
        return one if one.decision_id and one.step in (_Step.STARTED, _Step.PREPARED) else None


def logged_migrations(records: Iterable[Recorded]) -> dict[int, LoggedMigration]:
    """Return the migrations that are in the database, by version, in the order in which they started."""
    found: dict[int, LoggedMigration] = {}
    for record in records:
        one = record.migration
        if one.step == _Step.ROLLED_BACK:
            found.pop(one.version, None)
        elif one.step == _Step.ACCEPTED:
            if one.version in found:
                found[one.version].accepted.append(record)
        elif one.back:
            found[one.version].back = record if one.step == _Step.STARTED else None
        elif one.step == _Step.FAILED:
            if one.version in found and not found[one.version].finished:
                del found[one.version]
        elif one.step == _Step.BACKFILL and found[one.version].back is not None:
            pass  # part of its rollback
        elif one.step in _BUILDING or one.step == _Step.FINISHED:
            logged = found.get(one.version)
            if logged is None or logged.finished:
                found.pop(one.version, None)
                logged = found[one.version] = LoggedMigration(record, record, [], b"")
            logged.last = record
            logged.sources = list(one.sources) or logged.sources
            logged.digest = one.digest or logged.digest
    return found


def rolled_back(records: Iterable[Recorded]) -> dict[int, Recorded]:
    """Return the migrations that were rolled back or cancelled and not started again, by version."""
    found: dict[int, Recorded] = {}
    for record in records:
        one = record.migration
        if one.step == _Step.ROLLED_BACK:
            found[one.version] = record
        elif one.step in (*_BUILDING, _Step.FINISHED):
            found.pop(one.version, None)
    return found


def newest_first(records: Iterable[Recorded]) -> list[LoggedMigration]:
    """Return the migrations that are in the database, newest record first."""
    return sorted(logged_migrations(records).values(), key=lambda logged: logged.last.seq, reverse=True)


class State(StrEnum):
    """The state of a migration. The API uses the same words."""

    PENDING = "pending"
    APPLIED = "applied"
    EDITED = "edited"
    MISSING = "missing"
    AHEAD = "ahead"
    BUILDING = "building"


class MigrationInfo(msgspec.Struct, frozen=True):
    """One migration and its state.

    `seq`, `applied_ns` and `actor` are those of the commit that applied it, or of its newest commit while it
    is being built. `rows` counts the rows built so far; if it is `held`, all are built and two versions are
    served. `rolling_back`: it is being rolled back, since `started_ns`, and `rows` counts the rows converted
    back.

    While it is being built: `total` is the number of rows to build, `left_s` the estimated remaining time in
    seconds (0: unknown), and `stopped` why nobody works on it (empty: somebody does, or it is unknown).

    `rolled_back_ns`: when it was rolled back or cancelled, if it is pending since; `seq` and `actor` are then
    those of that commit.

    `prepared`: it is built, and waits for the decision `decision_id`, a UUID of 16 bytes, whose highest
    fencing number so far is `fence`. With a `decision_id` and not `prepared` it is being prepared for that
    decision.
    """

    version: int
    name: str
    state: State
    applied_ns: int = 0
    seq: int = 0
    actor: str = ""
    digest: bytes = b""  # when it was applied
    folder_digest: bytes = b""  # of its folder as it is now
    late: bool = False
    started_ns: int = 0
    rows: int = 0
    held: bool = False
    rolling_back: bool = False
    total: int = 0
    left_s: float = 0.0
    stopped: str = ""
    rolled_back_ns: int = 0
    prepared: bool = False
    decision_id: bytes = b""
    fence: int = 0

    @property
    def decision(self) -> str:
        """The decision as text, as in 01980f3e-0000-7000-8000-000000000001; empty: none."""
        return str(UUID(bytes=self.decision_id)) if self.decision_id else ""

    @property
    def title(self) -> str:
        """Version and name, as in 20260105093000_create_airports."""
        return f"{self.version}_{self.name}"


def status(db: Database, source: Source = SOURCE) -> list[MigrationInfo]:
    """Return all migrations, oldest first. Read-only. Raises SchemaError for an invalid folder."""
    return with_progress(db, compare(db.migration_records(), folders(find(source)), db.tables.vault))


def with_progress(db: Database, infos: list[MigrationInfo]) -> list[MigrationInfo]:
    """Return the same migrations, with the progress of those in progress. Read-only."""
    return [
        msgspec.structs.replace(info, **_progress(db))
        if not info.held and not info.prepared and (info.state is State.BUILDING or info.rolling_back)
        else msgspec.structs.replace(info, rows=built_rows(db.core))
        if info.held or info.prepared
        else info
        for info in infos
    ]


def _progress(db: Database) -> dict[str, Any]:
    rows, total = built_rows(db.core), total_rows(db.tables)
    work, refusal = db.core.backfilling, db.engine.refusal
    total += work.seeds if work is not None else 0
    left_s, stopped = 0.0, ""
    if refusal.since_ns:
        stopped = "disk full" if refusal.is_full else refusal.error
    elif work is None and not db.read_only:
        stopped = "no process is working on it"
    elif work is not None and rows > work.rows:
        left_s = (time.monotonic() - work.since_s) / (rows - work.rows) * max(0, total - rows)
    return {"rows": rows, "total": max(rows, total), "left_s": left_s, "stopped": stopped}


def compare(
    records: Iterable[Recorded], known: Iterable[Folder], vault: Vault | None = None
) -> list[MigrationInfo]:
    """Return the states of migrations, from the records of the log and the folders on disk.

    `vault` has the keys of files that were withheld from the log.
    """
    records = list(records)
    there, back = logged_migrations(records), rolled_back(records)
    by_version = {folder.version: folder for folder in known}
    newest = max(by_version, default=0)
    late = _late(there.values())
    infos = []
    adopted = max((logged.version for logged in there.values() if logged.adopted), default=0)
    for version in sorted(there.keys() | by_version.keys()):
        logged, folder = there.get(version), by_version.get(version)
        if folder is None and version < adopted and adopted in by_version:
            continue  # a baseline covers it
        if logged is None:
            assert folder is not None
            is_late = version < max(there, default=0)
            undone = back.get(version)
            infos.append(
                MigrationInfo(
                    version,
                    folder.name,
                    State.PENDING,
                    seq=undone.seq if undone else 0,
                    actor=undone.actor if undone else "",
                    folder_digest=folder.digest,
                    late=is_late,
                    rolled_back_ns=undone.time_ns if undone else 0,
                )
            )
            continue
        waiting = logged.waiting
        infos.append(
            MigrationInfo(
                version,
                logged.began.migration.name,
                _state(logged, folder, newest, vault),
                logged.last.time_ns if logged.finished else 0,
                logged.last.seq,
                logged.last.actor,
                logged.digest,
                folder.digest if folder else b"",
                version in late,
                (logged.back or logged.began).time_ns,
                held=logged.held,
                rolling_back=logged.back is not None,
                prepared=logged.last.migration.step == _Step.PREPARED,
                decision_id=waiting.decision_id if waiting else b"",
                fence=waiting.fence if waiting else 0,
            )
        )
    return infos


def _state(logged: LoggedMigration, folder: Folder | None, newest: int, vault: Vault | None) -> State:
    if not logged.finished:
        return State.BUILDING
    if folder is None:
        return State.MISSING if logged.version < newest else State.AHEAD
    return State.APPLIED if logged.matches(folder, vault) else State.EDITED


def _late(there: Iterable[LoggedMigration]) -> set[int]:
    """Return the versions that came after a newer one."""
    late, newest = set(), 0
    for logged in sorted(there, key=lambda logged: logged.began.seq):
        if logged.version < newest:
            late.add(logged.version)
        newest = max(newest, logged.version)
    return late


def differences(db: Database, source: Source = SOURCE) -> dict[int, str]:
    """Return the diff of each migration whose folder was edited after it ran, by version.

    Read-only; runs no code. Raises SchemaError for an invalid folder.
    """
    by_version = {folder.version: folder for folder in folders(find(source))}
    there = logged_migrations(db.migration_records())
    return {
        version: difference(logged.newest_sources, by_version[version], db.tables.vault)
        for version, logged in sorted(there.items())
        if version in by_version and not logged.matches(by_version[version], db.tables.vault)
    }


def difference(ran: list[log_pb2.SourceFile], folder: Folder, vault: Vault | None = None) -> str:
    """Return the diff from the files that ran to those of the folder.

    Binary files, and files whose content the log does not keep, are only named.
    """
    if not ran:
        return f"{folder.path.name} was adopted, not run: the log does not have its source\n"
    import difflib  # noqa: PLC0415  rarely needed

    was, now = compared_contents(ran, folder, vault)
    out: list[str] = []
    for path in sorted(was.keys() | now.keys()):
        if was.get(path) == now.get(path):
            continue
        try:
            old, new = (files.get(path, b"").decode().splitlines(keepends=True) for files in (was, now))
        except UnicodeDecodeError:
            out.append(f"Binary file {path} differs\n")
            continue
        before = f"applied/{path}" if path in was else "/dev/null"
        after = f"{folder.path.name}/{path}" if path in now else "/dev/null"
        out += map(_ended, difflib.unified_diff(old, new, before, after))
    return "".join(out)


def _ended(line: str) -> str:
    return line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
