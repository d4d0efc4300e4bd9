"""Status: each migration that the code or the database knows, and what is true of it.

    in the database   in the code    state
    no                yes            pending
    in part           whatever       building   it goes on where it stopped
    yes, does same    yes            applied    or an edit of its folder was accepted (`accept`)
    yes, another      yes            edited     its folder was changed after it ran
    yes               no, newer are  missing    its folder is gone
    yes               no, none newer ahead      newer code than this applied it

One that is `late` comes, or came, after another with a newer timestamp. One that is `returning` is in
force, and its rolling back has begun.

What the database knows is read from the Migration records of its log, never from a table that
could say otherwise. Runs no code of a migration.

History: what the log says of each migration, folded from its records in their order.

    STARTED ─▶ BACKFILL* ─▶ SWITCHED ─▶ FINISHED ─▶ ROLLED_BACK ─▶ FINISHED …
       └─ building ────────────────┘    applied     no life         applied
       └─▶ FAILED, ROLLED_BACK: no life

    FINISHED ─▶ STARTED back ─▶ BACKFILL* ─▶ ROLLED_BACK: no life
                applied, `back` └──────────▶ FAILED back: applied

A life of a migration begins with its first record after the end of the one before. What was
proposed, approved or rejected has not begun to live. ACCEPTED takes an edited folder for the one that ran.

Difference: what was edited in a migration's folder after it ran, as a diff of its source.

the log   the files as they were when it ran ┐
                                             ├─▶ unified diff
the disk  the files as they are now          ┘
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec

from everlog.migrations import withheld
from everlog.migrations.folder import SOURCE, Folder, Source, find, folders
from everlog.proto import log_pb2
from everlog.store.crypto.vault import Vault
from everlog.store.database import Database
from everlog.store.online.apply import Recorded
from everlog.store.online.backfill import built_rows, total_rows

_Step = log_pb2.Migration
_BUILDING = (_Step.STARTED, _Step.BACKFILL, _Step.SWITCHED)


class Life(msgspec.Struct):
    """One migration that is in the database, whole (`finished`) or in part."""

    began: Recorded
    last: Recorded
    sources: list[log_pb2.SourceFile]
    digest: bytes
    back: Recorded | None = None  # with what its rolling back began, while that is under way
    accepted: list[Recorded] = msgspec.field(default_factory=list)  # edits of its folder, oldest first

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

    def fits(self, folder: Folder, vault: Vault | None = None) -> bool:
        """Whether a folder does the same as the applied one, or was accepted for it. Read-only.

        `vault` has the keys of files that were withheld from the log."""

        def same(recorded: bytes, file: log_pb2.SourceFile) -> bool:
            return withheld.same(recorded, file, folder, vault)

        records = [(self.digest, self.sources)]
        records += [(one.migration.digest, list(one.migration.sources)) for one in self.accepted]
        return any(folder.is_as(digest, sources, same) for digest, sources in records)

    @property
    def newest_sources(self) -> list[log_pb2.SourceFile]:
        """The folder as it was last recorded: as it ran, or as it was accepted since."""
        return list(self.accepted[-1].migration.sources) if self.accepted else self.sources

    @property
    def held(self) -> bool:
        """Whether it has switched, and the version before is served as well."""
        return self.last.migration.step == _Step.SWITCHED


def lives(records: Iterable[Recorded]) -> dict[int, Life]:
    """The migrations that are in the database, by version, in the order in which they began."""
    found: dict[int, Life] = {}
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
            pass  # of its way back
        elif one.step in _BUILDING or one.step == _Step.FINISHED:
            life = found.get(one.version)
            if life is None or life.finished:
                found.pop(one.version, None)
                life = found[one.version] = Life(record, record, [], b"")
            life.last = record
            life.sources = list(one.sources) or life.sources
            life.digest = one.digest or life.digest
    return found


def rolled_back(records: Iterable[Recorded]) -> dict[int, Recorded]:
    """The migrations that were rolled back, or cancelled, and not begun again since, by version."""
    found: dict[int, Recorded] = {}
    for record in records:
        one = record.migration
        if one.step == _Step.ROLLED_BACK:
            found[one.version] = record
        elif one.step in (*_BUILDING, _Step.FINISHED):
            found.pop(one.version, None)
    return found


def latest(records: Iterable[Recorded]) -> list[Life]:
    """The migrations that are in the database, the one that came last first."""
    return sorted(lives(records).values(), key=lambda life: life.last.seq, reverse=True)


class State(StrEnum):
    """What is true of a migration; the words are those of the API."""

    PENDING = "pending"
    APPLIED = "applied"
    EDITED = "edited"
    MISSING = "missing"
    AHEAD = "ahead"
    BUILDING = "building"


class MigrationInfo(msgspec.Struct, frozen=True):
    """One migration. `seq`, `applied_ns` and `actor` tell of the commit that applied it, or that its
    building has come to. `rows` are those that are built so far; where it is `held`, all are, and
    two versions are served. `returning`: it is being rolled back, since `started_ns`, and `rows` are
    those that are back.

    While it is built: `total` are all rows that are to be done, `left_s` about how many seconds that takes
    (0: not known), `stopped` why nobody works on it now (empty: somebody does, or it is not known)."""

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
    returning: bool = False
    total: int = 0
    left_s: float = 0.0
    stopped: str = ""

    @property
    def title(self) -> str:
        return f"{self.version}_{self.name}"


def status(db: Database, source: Source = SOURCE) -> list[MigrationInfo]:
    """All migrations, oldest first. Read-only. Raises SchemaError for a bad folder."""
    return with_progress(db, compare(db.migration_records(), folders(find(source)), db.tables.vault))


def with_progress(db: Database, infos: list[MigrationInfo]) -> list[MigrationInfo]:
    """The same, with the progress of running migrations. Read-only."""
    return [
        msgspec.structs.replace(info, **_progress(db))
        if not info.held and (info.state is State.BUILDING or info.returning)
        else msgspec.structs.replace(info, rows=built_rows(db.core))
        if info.held
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
        stopped = "nobody works on it"
    elif work is not None and rows > work.rows:
        left_s = (time.monotonic() - work.since_s) / (rows - work.rows) * max(0, total - rows)
    return {"rows": rows, "total": max(rows, total), "left_s": left_s, "stopped": stopped}


def compare(
    records: Iterable[Recorded], known: Iterable[Folder], vault: Vault | None = None
) -> list[MigrationInfo]:
    """Return the states of migrations, from the records of the log and the folders on disk. `vault` has the
    keys of the database."""
    there = lives(records)
    by_version = {folder.version: folder for folder in known}
    newest = max(by_version, default=0)
    late = _late(there.values())
    infos = []
    adopted = max((life.version for life in there.values() if life.adopted), default=0)
    for version in sorted(there.keys() | by_version.keys()):
        life, folder = there.get(version), by_version.get(version)
        if folder is None and version < adopted and adopted in by_version:
            continue  # a baseline stands for it
        if life is None:
            assert folder is not None
            is_late = version < max(there, default=0)
            infos.append(
                MigrationInfo(version, folder.name, State.PENDING, folder_digest=folder.digest, late=is_late)
            )
            continue
        infos.append(
            MigrationInfo(
                version,
                life.began.migration.name,
                _state(life, folder, newest, vault),
                life.last.time_ns if life.finished else 0,
                life.last.seq,
                life.last.actor,
                life.digest,
                folder.digest if folder else b"",
                version in late,
                (life.back or life.began).time_ns,
                held=life.held,
                returning=life.back is not None,
            )
        )
    return infos


def _state(life: Life, folder: Folder | None, newest: int, vault: Vault | None) -> State:
    if not life.finished:
        return State.BUILDING
    if folder is None:
        return State.MISSING if life.version < newest else State.AHEAD
    return State.APPLIED if life.fits(folder, vault) else State.EDITED


def _late(there: Iterable[Life]) -> set[int]:
    """The versions that came after a newer one."""
    late, newest = set(), 0
    for life in sorted(there, key=lambda life: life.began.seq):
        if life.version < newest:
            late.add(life.version)
        newest = max(newest, life.version)
    return late


def differences(db: Database, source: Source = SOURCE) -> dict[int, str]:
    """The diff of each migration whose folder is not what ran, by version. Read-only; runs no code."""
    by_version = {folder.version: folder for folder in folders(find(source))}
    there = lives(db.migration_records())
    return {
        version: difference(life.newest_sources, by_version[version], db.tables.vault)
        for version, life in sorted(there.items())
        if version in by_version and not life.fits(by_version[version], db.tables.vault)
    }


def difference(ran: list[log_pb2.SourceFile], folder: Folder, vault: Vault | None = None) -> str:
    """The diff from the files that ran to those of the folder; binary ones are only named, and so are those
    whose content the log does not keep."""
    if not ran:
        return f"{folder.path.name} was adopted, not run: the log has no source of it\n"
    import difflib  # noqa: PLC0415  only for messages

    was, now = withheld.contents(ran, folder, vault)
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
