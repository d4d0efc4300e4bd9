import random
import threading
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from everlog import MigrationError, SchemaError, migrations
from everlog.migrations import Migration, MigrationInfo
from everlog.migrations.loader import load
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.progress import Progress
from everlog.store.tx.transaction import Transaction
from tests.migrations.project import Project

JFK = {"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\nEWR,Newark\n"}
UNIQUE = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME, unique=True),))'


def test_each_migration_is_one_record_with_schema_sources_and_rows(project: Project, db: Database) -> None:
    project.add("one", files=JFK)
    project.add("two", fields="string faa = 1; string name = 2; string city = 3;")
    head = db.head
    done = migrations.apply(db, project.build().path, actor="ann", reason="release 7")
    assert [info.seq for info in done] == [head + 1, head + 2] == [head + 1, db.head]
    commit = db.log.commit(head + 1)
    assert (commit.actor, commit.reason, commit.schema) == ("ann", "release 7", 20260101000000)
    assert commit.migration.step == log_pb2.Migration.FINISHED
    assert [file.path for file in commit.migration.sources] == ["__init__.py", *JFK, "model.proto"]
    assert commit.migration.digest == done[0].digest
    assert len(commit.changes) == 2
    assert db.schema.version == 20260101000001
    assert migrations.apply(db, project.path) == []


def test_it_stops_at_a_version_and_goes_on_from_there(project: Project, db: Database) -> None:
    for name in ("one", "two", "three"):
        project.add(name)
    project.build()
    assert [info.name for info in migrations.apply(db, project.path, to=20260101000001)] == ["one", "two"]
    assert [info.name for info in migrations.apply(db, project.path)] == ["three"]


def test_an_older_model_reads_and_writes_beside_a_newer_one(project: Project, db: Database) -> None:
    project.add("one", files=JFK)
    more = (
        project.add("two", fields='string faa = 1; string title = 2; reserved "name"; string city = 3;')
        / "__init__.py"
    )
    more.write_text(more.read_text().replace('field("name"', 'field("title"'))
    old, new = (migration.tables[0] for migration in project.build().load())
    migrations.apply(db, project.path)
    db.put(new, new.model(faa="JFK", title="Kennedy", city="New York"))
    before = db.get(old, "JFK")
    assert before is not None
    assert before.name == "Kennedy"
    before.name = "John F. Kennedy"
    db.put(old, before)
    after = db.get(new, "JFK")
    assert after is not None
    assert (after.title, after.city) == ("John F. Kennedy", "New York")


def test_an_index_added_later_is_built_over_the_rows(project: Project, db: Database) -> None:
    project.add("one", files=JFK)
    project.add("two", table=UNIQUE)
    migrations.apply(db, project.build().path)
    table = project.load()[1].tables[0]
    assert [row.faa for row in db.scan(table.by_name, "Newark")] == ["EWR"]


def test_a_violated_unique_index_names_both_rows_and_leaves_no_trace(project: Project, db: Database) -> None:
    project.add("one", files={"bootstrap_airports.csv": "faa,name\nJFK,New York\nLGA,New York\n"})
    project.add("two", table=UNIQUE, files={"bootstrap_airports.csv": "faa,name\nXXX,new\n"})
    project.build()
    migrations.apply(db, project.path, to=20260101000000)
    head, schema = db.head, db.schema.proto
    with pytest.raises(MigrationError, match="migration 20260101000001_two was not applied") as caught:
        migrations.apply(db, project.path)
    assert "JFK" in str(caught.value)
    assert "LGA" in str(caught.value)
    assert (caught.value.version, caught.value.index) == (20260101000001, "by_name")
    assert (db.head, db.schema.proto) == (head, schema)
    assert [info.state for info in migrations.status(db, project.path)] == ["applied", "pending"]


def _edit(project: Project) -> None:
    code = project.folders[0] / "__init__.py"
    code.write_text(code.read_text() + "LATER = 1\n")


def _remove(project: Project) -> None:
    project.folders[0].rename(project.path.parent / "aside")


def _insert(project: Project) -> None:
    project.add("between", version=20251231235959)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_edit, "20260101000000_one was edited after commit 2 applied it"),
        (_remove, "20260101000000_one was applied by commit 2, but its folder is missing"),
        (_insert, "20251231235959_between is pending, but the newer 20260101000001 is already applied"),
    ],
)
def test_a_past_that_is_not_what_was_applied_stops_everything(
    project: Project, db: Database, harm: Callable[[Project], None], said: str
) -> None:
    project.add("one")
    project.add("two")
    migrations.apply(db, project.build().path)
    project.add("three")
    harm(project)
    project.build()
    head = db.head
    with pytest.raises(MigrationError, match=said):
        migrations.apply(db, project.path)
    assert db.head == head


def test_older_code_on_a_newer_database_has_nothing_to_do(project: Project, db: Database) -> None:
    project.add("one")
    project.add("two")
    migrations.apply(db, project.build().path)
    project.folders[1].rename(project.path.parent / "aside")
    assert migrations.apply(db, project.path) == []


def test_a_bad_last_folder_stops_the_first(project: Project, db: Database) -> None:
    project.add("one")
    project.add("two", code='CITY = field("city", 3, STRING)')
    with pytest.raises(SchemaError):
        migrations.apply(db, project.build().path)
    assert db.schema.version == 0


def test_progress_and_each_applied_migration_are_told(project: Project, db: Database) -> None:
    project.add("one", files=JFK)
    project.add("two", table=UNIQUE)
    told: list[MigrationInfo] = []
    steps: list[Progress] = []
    done = migrations.apply(db, project.build().path, applied=told.append, progress=steps.append)
    assert told == done
    assert steps[0].step == "20260101000000_one: apply"
    assert {step.step for step in steps} >= {"20260101000001_two: apply"}


def test_threads_that_apply_at_once_apply_each_migration_once(project: Project, db: Database) -> None:
    for number in range(5):
        project.add(f"step_{number}")
    project.build()
    done: list[MigrationInfo] = []
    threads = [
        threading.Thread(target=lambda: done.extend(migrations.apply(db, project.path, actor="ann")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(info.version for info in done) == [20260101000000 + number for number in range(5)]
    assert len(db.migration_records()) == 5


def test_rows_written_meanwhile_are_in_the_new_index(project: Project, db: Database) -> None:
    project.add("one")
    project.add("two", table=UNIQUE)
    first, second = (migration.tables[0] for migration in load(project.build().path))
    migrations.apply(db, project.path, to=20260101000000)
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            written += 1
            row = first.model(faa=f"{written}", name=f"name {written}")
            db.run(partial(Transaction.put, table=first, row=row), durability="os")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while written < 50 + random.Random(7).randrange(50):
            pass
        migrations.apply(db, project.path)
    finally:
        stop.set()
        writer.join(60)
    assert db.count(second.by_name) == db.count(second) == written


def test_what_is_about_to_be_applied_is_seen_before_the_first_and_may_be_refused(
    project: Project, db: Database
) -> None:
    project.add("one")
    project.add("two")
    head, seen = db.head, list[str]()

    def refuse(todo: Sequence[Migration]) -> None:
        seen.extend(migration.name for migration in todo)
        raise MigrationError("not these")

    with pytest.raises(MigrationError, match="not these"):
        migrations.apply(db, project.build().path, check=refuse)
    assert (seen, db.head) == (["one", "two"], head)
