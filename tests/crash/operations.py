"""Operations: the work of the maintenance thread of a campaign's process, in sequence. Those of the second
thread are in beside.py.

A new operation is one function, here or there, and a line in OPERATIONS. It gets a `Maintenance`, and raises
if something is wrong. It may be killed at any moment; the functions in `AFTER` check its results afterwards,
on the database that was opened again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from everlog import migrations
from everlog.audit.backup import backup
from everlog.audit.prover import LocalProver
from everlog.audit.restore import restore
from everlog.audit.verify_backup import verify_backup
from everlog.migrations.in_progress import current_migration
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.database import Database
from everlog.store.errors import ConflictError, Error, MigrationError, SchemaError
from everlog.store.rocks.files import KEYS
from tests.crash import disk
from tests.crash.folders import MASTER, NEWEST, Value, opened
from tests.crash.maintenance import Maintenance

LOAD_FROM = 1_000_000  # the keys of loads are after those of transactions
LOAD_STEP = 10_000
SEALED = {"people", "visits"}  # whether their rows can be opened may change a moment later


def load_rows(number: int, rows: int) -> Iterator[tuple[int, Value]]:
    """Return the rows of a load, the same in every process."""
    for at in range(rows):
        yield LOAD_FROM + number * LOAD_STEP + at, Value(f"load {number}", at)


def load(maintenance: Maintenance) -> None:
    """Run a new load, or resume a killed one."""
    way = maintenance.way()
    number = maintenance.random.randrange(8)
    rows = 500 * (number + 1)
    op = f"load {number} of {maintenance.name}"
    maintenance.journal.say(op=op, load=number, rows=rows)
    try:
        maintenance.db.load(
            way.table,
            (way.row(*row) for row in load_rows(number, rows)),
            id=f"load {number}",
            correlation_id=op,
            durability=maintenance.random.choice(("sync", "os")),
        )
    except (SchemaError, ConflictError):
        return  # the schema changed meanwhile
    maintenance.journal.say(loaded=number, rows=rows)


def up(maintenance: Maintenance) -> None:
    to = maintenance.random.choice([None, *maintenance.folders.ways])
    _migrating(maintenance, "up", lambda: migrations.apply(maintenance.db, maintenance.folders.path, to=to))


def hold(maintenance: Maintenance) -> None:
    """Keep two versions in service, if there are rows to rewrite."""
    _migrating(
        maintenance,
        "hold",
        lambda: migrations.apply(maintenance.db, maintenance.folders.path, to=NEWEST - 1, hold=True),
    )


def complete(maintenance: Maintenance) -> None:
    _migrating(maintenance, "complete", lambda: migrations.complete(maintenance.db))


def decide(maintenance: Maintenance) -> None:
    """Prepare a migration, or commit, abort or leave the one that waits for a decision."""
    db, begun = maintenance.db, current_migration(maintenance.db)
    decision_id = begun.migration.decision_id if begun is not None else b""
    if not decision_id:
        decision_id = maintenance.random.randbytes(16)
        verbs = ["prepare"]
    elif begun is not None and begun.migration.step == begun.migration.PREPARED:
        verbs = ["commit_prepared", "abort_prepared", "leave"]
    else:
        verbs = ["prepare", "abort_prepared"]
    verb = maintenance.random.choice(verbs)
    if verb == "prepare":
        following = [one for one in maintenance.folders.ways if one > db.schema.version]
        to = min(following, default=None)
        path = maintenance.folders.path
        _migrating(maintenance, verb, lambda: migrations.prepare(db, decision_id, path, to=to))
    elif verb != "leave":
        order = migrations.commit_prepared if verb == "commit_prepared" else migrations.abort_prepared
        _migrating(maintenance, verb, lambda: order(db, decision_id))


def rollback(maintenance: Maintenance) -> None:
    """Roll back one migration, but never to a version without rows."""
    if len([one for one in maintenance.folders.ways if one <= maintenance.db.schema.version]) > 1:
        _migrating(
            maintenance,
            "rollback",
            lambda: migrations.rollback(maintenance.db, 1, source=maintenance.folders.path),
        )


def _migrating(maintenance: Maintenance, verb: str, call: Callable[[], Any]) -> None:
    maintenance.journal.say(migrating=verb, name=maintenance.name)
    try:
        call()
    except MigrationError as error:
        maintenance.journal.say(refused=verb, why=str(error))
    else:
        maintenance.journal.say(
            migrated=verb,
            version=maintenance.db.schema.version,
            held=current_migration(maintenance.db) is not None,
        )


def rebuild(maintenance: Maintenance) -> None:
    try:
        maintenance.db.admin.rebuild()
    except Error as error:
        if "being forgotten" not in str(error):
            raise
    maintenance.journal.say(rebuilt=maintenance.name)


def rebuild_into(maintenance: Maintenance) -> None:
    """Rebuild into another directory, which equals the original."""
    path = maintenance.scratch / "again"
    shutil.rmtree(path, ignore_errors=True)
    hashes = maintenance.db.admin.rebuild_into(path)
    with Database(path, read_only=True) as db:
        open_tables = {name: one for name, one in db.admin.hashes().items() if name not in SEALED}
        assert open_tables == {name: one for name, one in hashes.items() if name not in SEALED}
    maintenance.journal.say(rebuilt=str(path))


def check(maintenance: Maintenance) -> None:
    """Check the database; a key that could not be overwritten on a full disk is reported until the next
    attempt.
    """
    problems = list(maintenance.db.admin.check())
    if disk.is_failing():
        problems = [one for one in problems if f"{KEYS} has the keys of" not in one]
    assert problems == [], problems


def look(maintenance: Maintenance) -> None:
    """Check that a snapshot shows one position, whatever is written meanwhile."""
    way = maintenance.way()
    with maintenance.db.snapshot() as snapshot:
        try:
            first = [way.read(row) for row in snapshot.scan(way.table)]
            assert snapshot.count(way.table) == len(first)
            assert [way.read(row) for row in snapshot.scan(way.table)] == first
            by_n = sorted((value.n, number) for number, value in first)
            found = [way.read(row) for row in snapshot.scan(way.table.by_n)]
            assert [(value.n, number) for number, value in found] == by_n
        except SchemaError:
            return


def read_beside(maintenance: Maintenance) -> None:
    with opened(maintenance.db.path, read_only=True) as reader:
        problems = list(reader.admin.check())
        if disk.is_failing():  # such keys are overwritten when the disk accepts writes again
            problems = [one for one in problems if f"{KEYS} has the keys of" not in one]
        assert problems == [], problems


def back_up(maintenance: Maintenance) -> None:
    """Update one backup, again and again."""
    backup(maintenance.db, maintenance.scratch / "backup")


def prove(maintenance: Maintenance) -> None:
    """Check that the root of the tree never changes for a log of a given size."""
    size, root = LocalProver(maintenance.db).head()
    maintenance.journal.say(root=root.hex(), size=size)


def look_back(maintenance: Maintenance) -> None:
    """Check that the past does not change, whatever is written and rebuilt meanwhile."""
    seq = maintenance.random.randrange(2, maintenance.db.head + 1)
    way = maintenance.folders.ways.get(maintenance.db.schema_at(seq).version)
    if way is not None:
        before = [way.read(row) for row in maintenance.db.at(seq=seq).scan(way.table)]
        assert [way.read(row) for row in maintenance.db.at(seq=seq).scan(way.table)] == before


def flush(maintenance: Maintenance) -> None:
    maintenance.db.tables.flush()
    maintenance.db.engine.flush()


# operation: its share, among all of these.
OPERATIONS: dict[Callable[[Maintenance], None], int] = {
    load: 5,
    up: 5,
    hold: 2,
    complete: 2,
    decide: 6,
    rollback: 3,
    rebuild: 2,
    rebuild_into: 1,
    check: 2,
    look: 4,
    read_beside: 1,
    back_up: 2,
    prove: 2,
    look_back: 2,
    flush: 2,
}


def _half_rebuilds(db: EmbeddedDatabase, scratch: Path) -> None:
    """Check that a rebuild into a directory is complete, or is not a database."""
    path = scratch / "again"
    if (path / "EVERLOG").exists():
        with Database(path, read_only=True) as again:
            assert [one for one in again.admin.check() if "are sealed, and" not in one] == []
            assert again.uuid == db.uuid


def _restored_backup(db: EmbeddedDatabase, scratch: Path) -> None:
    """Check that a backup is of this log, can be continued, is complete, and restores an equal database, with
    the keys.
    """
    if not (scratch / "backup").exists():
        return
    backup(db, scratch / "backup")
    assert list(verify_backup(scratch / "backup")) == []
    shutil.rmtree(scratch / "restored", ignore_errors=True)
    restore(scratch / "backup", scratch / "restored")
    if (db.path / KEYS).exists():
        shutil.copy(db.path / KEYS, scratch / "restored")
    Database(scratch / "restored", create=False, master_key=MASTER).close()  # builds hashed indexes
    with Database(scratch / "restored", read_only=True, master_key=MASTER) as again:
        assert again.log.get(db.head) == db.log.get(db.head)
        assert list(again.admin.check()) == []
        assert again.admin.hashes(seq=db.head) == db.admin.hashes()


# What must hold after a kill, of the results that the operations leave beside the database.
AFTER: tuple[Callable[[EmbeddedDatabase, Path], None], ...] = (_half_rebuilds, _restored_backup)
