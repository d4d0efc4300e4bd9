"""Status: each migration that the code or the database knows, and what is true of it.

    in the database   in the code    state
    no                yes            pending
    yes, same digest  yes            applied
    yes, another      yes            edited     its folder was changed after it ran
    yes               no, newer are  missing    its folder is gone
    yes               no, none newer ahead      newer code than this applied it

What the database knows is read from the Migration records of its log, never from a table that
could say otherwise. Runs no code of a migration.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from everlog.migrations.folder import SOURCE, Folder, Source, find, folders
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.migrate import Recorded


class State(StrEnum):
    """What is true of a migration; the words are those of the API."""

    PENDING = "pending"
    APPLIED = "applied"
    EDITED = "edited"
    MISSING = "missing"
    AHEAD = "ahead"


class MigrationInfo(msgspec.Struct, frozen=True):
    """One migration. `seq`, `applied_ns` and `actor` tell of the commit that applied it."""

    version: int
    name: str
    state: State
    applied_ns: int = 0
    seq: int = 0
    actor: str = ""
    digest: bytes = b""  # when it was applied
    folder_digest: bytes = b""  # of its folder as it is now

    @property
    def title(self) -> str:
        return f"{self.version}_{self.name}"


def status(db: Database, source: Source = SOURCE) -> list[MigrationInfo]:
    """All migrations, oldest first. Read-only. Raises SchemaError for a bad folder."""
    return compare(db.migrations(), folders(find(source)))


def compare(records: Iterable[Recorded], known: Iterable[Folder]) -> list[MigrationInfo]:
    """What records of the log and folders on disk say together."""
    applied = {record.migration.version: record for record in records if _in_force(record)}
    by_version = {folder.version: folder for folder in known}
    newest = max(by_version, default=0)
    infos = []
    for version in sorted(applied.keys() | by_version.keys()):
        record, folder = applied.get(version), by_version.get(version)
        if record is None:
            assert folder is not None
            infos.append(MigrationInfo(version, folder.name, State.PENDING, folder_digest=folder.digest))
            continue
        if folder is None:
            state = State.MISSING if version < newest else State.AHEAD
        else:
            state = State.APPLIED if folder.digest == record.migration.digest else State.EDITED
        infos.append(
            MigrationInfo(
                version,
                record.migration.name,
                state,
                record.time_ns,
                record.seq,
                record.actor,
                record.migration.digest,
                folder.digest if folder else b"",
            )
        )
    return infos


def _in_force(record: Recorded) -> bool:
    # Of several records of one version the last one counts; steps before FINISHED come later.
    return record.migration.step == log_pb2.Migration.FINISHED
