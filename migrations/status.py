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
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec

from everlog.migrations.folder import SOURCE, Folder, Source, find, folders
from everlog.migrations.history import Life, lives
from everlog.store.built import built_rows, total_rows
from everlog.store.database import Database
from everlog.store.migrate import Recorded
from everlog.store.vault import Vault


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
    return with_progress(db, compare(db.migrations(), folders(find(source)), db.tables.vault))


def with_progress(db: Database, infos: list[MigrationInfo]) -> list[MigrationInfo]:
    """The same, with the progress of running migrations. Read-only."""
    return [
        msgspec.structs.replace(info, **_progress(db))
        if not info.held and (info.state is State.BUILDING or info.returning)
        else msgspec.structs.replace(info, rows=built_rows(db))
        if info.held
        else info
        for info in infos
    ]


def _progress(db: Database) -> dict[str, Any]:
    rows, total, work, refusal = built_rows(db), total_rows(db), db.backfilling, db.engine.refusal
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
