"""Details: one migration as people review it: its files, declarations, bootstrap rows and events.

    in the log      the folder as it ran, or as its edit was accepted
    on disk         the folder of a pending migration
    of a proposal   the folder as it was proposed, if it was edited or removed since

`show` takes the first of these that exists, or the one with a given digest. Declarations (tables, indexes)
and bootstrap rows need the code of the folder, so they are shown if the folder on disk is the same.

Invariants
  (1) Content of files and rows that the log withholds (rows of sealed tables) is never returned.
  (2) A response is at most about FILES_BYTES_MAX of content and ROWS_MAX rows for each table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from everlog.migrations import digest as digests
from everlog.migrations.bootstrap import known_bootstrap
from everlog.migrations.folder import SOURCE, Folder, Source, find, folders
from everlog.migrations.loader import load
from everlog.migrations.migration import Migration
from everlog.migrations.proposal import Event, MigrationEntry, Proposal, Step, event_of, folder_of, proposals
from everlog.migrations.status import LoggedMigration, logged_migrations
from everlog.migrations.values import as_json, dump
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import Error, MigrationError
from everlog.store.schema.table import Table

FILES_BYTES_MAX = 2 << 20  # of the files of one migration
ROWS_MAX = 20  # bootstrap rows of one table
DECLARATIONS_MAX = 64
SHA_BYTES = 32
DECIDES = (Step.PROPOSED, Step.APPROVED, Step.REJECTED)
DECISIONS = ("proposed", "approved", "rejected")


class ShownFile(msgspec.Struct, frozen=True):
    """A file. `content` is None if it is not kept or too large; `missing` then says why. `size` is in bytes,
    0 if unknown; `sha256` is hexadecimal, empty if the content is withheld."""

    path: str
    content: bytes | None
    size: int = 0
    sha256: str = ""
    missing: str = ""


class ShownIndex(msgspec.Struct, frozen=True):
    """An index, with the names of its fields."""

    name: str
    fields: list[str]
    unique: bool = False


class ShownTable(msgspec.Struct, frozen=True):
    """The declaration of a table. `ttl_ns`: the time to live of its rows in nanoseconds, 0: they do not
    expire. `person`: the field that says whose data a row is; empty: none."""

    name: str
    model: str
    key: list[str]
    indexes: list[ShownIndex]
    ttl_ns: int = 0
    person: str = ""
    transformed: bool = False


class ShownRows(msgspec.Struct, frozen=True):
    """Bootstrap rows of a table: how many, and the first ones as JSON; none if the table is sealed."""

    table: str
    rows: int
    first: list[str]
    sealed: bool = False


class Details(msgspec.Struct, frozen=True):
    """One migration. `origin`: where its files are from: log, folder or proposal; empty: there are none.

    `problem`: why the declarations and bootstrap rows are not shown. `events` are those of its proposals and
    of its own steps, oldest first.
    """

    version: int
    name: str
    digest: bytes = b""
    origin: str = ""
    files: list[ShownFile] = []
    tables: list[ShownTable] = []
    drops: list[str] = []  # tables and parts of tables, and "old → new" for renames
    bootstrap: list[ShownRows] = []
    problem: str = ""
    events: list[Event] = []

    @property
    def title(self) -> str:
        """Version and name, as in 20260105093000_create_airports."""
        return f"{self.version}_{self.name}"

    def file(self, path: str) -> str | None:
        """Return the text of a file; None if it is not there, or not text."""
        content = next((one.content for one in self.files if one.path == path), None)
        try:
            return None if content is None else content.decode("utf-8-sig")
        except UnicodeDecodeError:
            return None


class _Shown(NamedTuple):
    """A folder whose files can be shown: where it is, its digest, its files, and which have no content."""

    origin: str
    digest: bytes
    sources: Sequence[log_pb2.SourceFile]
    withheld: Collection[str] = ()


def show(db: Database, version: int, source: Source | None = SOURCE, *, digest: bytes = b"") -> Details:
    """Return one migration. Read-only; runs the folders' code.

    `digest`: of the folder to show; empty: as it was applied, else as it is on disk. `source` None: there are
    no folders. Raises MigrationError for an unknown version.
    """
    logged = logged_migrations(db.migration_records()).get(version)
    made = proposals(db)
    folder, problem = _on_disk(source, version)
    entry = next(
        (one for each in reversed(made) for one in each.plan.migrations if one.version == version), None
    )
    known = logged.began.migration.name if logged else folder.name if folder else entry.name if entry else ""
    if not known:
        raise MigrationError(
            f"there is no migration {version}, neither in the folders nor in the log", version=version
        )
    migration = None
    if folder is not None:
        migration, problem = _loaded(source, folder)
    candidates = _candidates(logged, folder, migration, made, version)
    chosen = next((one for one in candidates if not digest or one.digest == digest), None)
    found = Details(version, known, digest, events=_events(db, made, version))
    if chosen is None:
        return msgspec.structs.replace(found, problem="the server does not have this folder")
    found = msgspec.structs.replace(found, digest=chosen.digest, origin=chosen.origin, files=_files(chosen))
    if folder is None or not (chosen.origin == "folder" or folder.is_as(chosen.digest, chosen.sources)):
        return msgspec.structs.replace(
            found, problem=problem or "the folder of the server is missing, or differs from the one shown"
        )
    if migration is None:
        return msgspec.structs.replace(found, problem=problem)
    try:
        tables, drops, rows = _declared(migration)
    except (Error, OSError) as error:
        return msgspec.structs.replace(found, problem=str(error))
    return msgspec.structs.replace(found, tables=tables, drops=drops, bootstrap=rows)


def _on_disk(source: Source | None, version: int) -> tuple[Folder | None, str]:
    """Return the folder of a version, and why there is none."""
    if source is None:
        return None, "the server was started without the migrations of this database"
    try:
        known = folders(find(source))
    except (Error, OSError) as error:
        return None, str(error)
    found = next((one for one in known if one.version == version), None)
    return found, "" if found else "the folder is missing"


def _loaded(source: Source | None, folder: Folder) -> tuple[Migration | None, str]:
    """Return the migration of a folder, and why it cannot be loaded."""
    assert source is not None
    try:
        found = next((one for one in load(source) if one.version == folder.version), None)
    except (Error, OSError) as error:
        return None, str(error)
    return found, ""


def _candidates(
    logged: LoggedMigration | None,
    folder: Folder | None,
    migration: Migration | None,
    made: Sequence[Proposal],
    version: int,
) -> Iterator[_Shown]:
    """Yield the folders of a version, the best first."""
    if logged is not None and logged.sources:
        for one in reversed(logged.accepted):
            yield _Shown("log", one.migration.digest, one.migration.sources)
        yield _Shown("log", logged.digest, logged.sources)
    if folder is not None:
        yield _Shown("folder", folder.digest, folder.sources, _withheld(folder, migration))
    for proposal in reversed(made):
        for entry in proposal.plan.migrations:
            if entry.version == version:
                yield _proposed(proposal, entry)


def _proposed(proposal: Proposal, entry: MigrationEntry) -> _Shown:
    """Return a folder as a proposal has it. Large files have a digest only."""
    kept = {file.path: file.content for file in proposal.kept}
    files = [
        log_pb2.SourceFile(path=path, content=kept[f"{folder_of(entry)}/{path}"])
        if f"{folder_of(entry)}/{path}" in kept
        else log_pb2.SourceFile(path=path, digest=_sha_of(sha))
        for path, sha in entry.files.items()
    ]
    return _Shown("proposal", bytes.fromhex(entry.digest), files)


def _sha_of(words: str) -> bytes:
    """Return the digest of a file in a plan; of a withheld file, one of another length."""
    return bytes.fromhex(words.removeprefix("hmac:"))


def _withheld(folder: Folder, migration: Migration | None) -> Collection[str]:
    """Return the files of a folder whose content the log would not keep."""
    if not folder.may_withhold:
        return ()
    if migration is not None:
        try:
            return known_bootstrap(migration).withheld
        except (Error, OSError):
            pass
    return {file.path for file in folder.sources}


def _files(shown: _Shown) -> list[ShownFile]:
    """Return files with their contents, small ones first up to FILES_BYTES_MAX."""
    size, chosen = 0, set[str]()
    for file in sorted(shown.sources, key=lambda one: len(one.content)):
        size += len(file.content)
        if size > FILES_BYTES_MAX:
            break
        chosen.add(file.path)
    return [_file(file, chosen, shown.withheld) for file in shown.sources]


def _file(file: log_pb2.SourceFile, chosen: Collection[str], withheld: Collection[str]) -> ShownFile:
    if file.path in withheld or (file.digest and len(file.digest) != SHA_BYTES):
        return ShownFile(file.path, None, missing="it has rows of a sealed table")
    sha = digests.sha256(file).hex()
    if file.digest or file.path not in chosen:
        size = file.size or len(file.content)
        return ShownFile(file.path, None, size, sha, "it is too large")
    return ShownFile(file.path, file.content, len(file.content), sha)


def _events(db: Database, made: Sequence[Proposal], version: int) -> list[Event]:
    """Return the events of a migration, oldest first: of its proposals, and its own steps."""
    found = {
        event.seq: event
        for proposal in made
        if any(one.version == version for one in proposal.plan.migrations)
        for event in proposal.events
        if event.version == version or event.step in DECISIONS
    }
    for record in db.migration_records():
        one = record.migration
        if one.version == version and one.step not in (*DECIDES, Step.BACKFILL):
            found[record.seq] = event_of(record, db.log.commit(record.seq))
    return [found[seq] for seq in sorted(found)]


Declared = tuple[list[ShownTable], list[str], list[ShownRows]]
_declarations: dict[bytes, Declared] = {}  # of the newest folders, by digest: large files are read once


def _declared(migration: Migration) -> Declared:
    """Return the tables, drops and renames of a migration, and its first bootstrap rows."""
    key = migration.folder.digest
    found = _declarations.get(key)
    if found is None:
        drops = [*migration.drop, *sorted(migration.dropped_parts)]
        drops += [f"{old} → {new}" for old, new in migration.rename.items()]
        found = [_table(one, migration) for one in migration.tables], drops, _rows(migration)
        while len(_declarations) >= DECLARATIONS_MAX:
            _declarations.pop(next(iter(_declarations)), None)
        _declarations[key] = found
    return found


def _table(table: Table[Any, Any], migration: Migration) -> ShownTable:
    remade = migration.up.names if migration.up is not None else ()
    return ShownTable(
        table.name,
        table.model.DESCRIPTOR.name,
        [one.dotted for one in table.key],
        [
            ShownIndex(one.name, [field.dotted for field in one.fields], one.unique)
            for one in table.indexes.values()
        ],
        table.ttl_ns,
        table.person.dotted if table.person is not None else "",
        table.name in migration.transforms or table.name in remade,
    )


def _rows(migration: Migration) -> list[ShownRows]:
    """Return the first bootstrap rows of each table."""
    data = known_bootstrap(migration)
    sealed = {one.name for one in migration.tables if one.person is not None}
    return [
        ShownRows(
            name,
            count,
            [] if name in sealed else [dump(as_json(row)) for _, row in islice(data.of([name]), ROWS_MAX)],
            name in sealed,
        )
        for name, count in data.counts.items()
    ]
