"""History: what the log says of each migration, folded from its records in their order.

    STARTED ─▶ BACKFILL* ─▶ SWITCHED ─▶ FINISHED ─▶ ROLLED_BACK ─▶ FINISHED …
       └─ building ────────────────┘    applied     no life         applied
       └─▶ FAILED, ROLLED_BACK: no life

    FINISHED ─▶ STARTED back ─▶ BACKFILL* ─▶ ROLLED_BACK: no life
                applied, `back` └──────────▶ FAILED back: applied

A life of a migration begins with its first record after the end of the one before. What was
proposed, approved or rejected has not begun to live. ACCEPTED takes an edited folder for the one that ran.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from everlog.migrations import withheld
from everlog.migrations.folder import Folder
from everlog.proto import log_pb2
from everlog.store.migrate import Recorded
from everlog.store.vault import Vault

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
