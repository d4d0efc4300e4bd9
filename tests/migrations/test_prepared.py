"""Prepared migrations: built, durable, and ended by a decision from outside only."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import everlog
from everlog import MigrationError, SchemaError, UniqueError, migrations
from everlog.audit import backup, restore
from everlog.consumers import Follower, SqliteSink, verify
from everlog.migrations import Approval, Decision, DecisionState, Rules, status
from everlog.migrations.approval.auto import AutoRun
from everlog.migrations.in_progress import current_migration
from everlog.migrations.lock import check_going
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store import keys
from everlog.store.database import Database
from everlog.store.progress import Progress
from tests.migrations.project import Project
from tests.migrations.test_online import TWO as TRANSFORM
from tests.migrations.test_online import Airports
from tests.migrations.test_online_index import CITY

ROWS = 100
ONE, TWO = (uuid.UUID(f"01980f3e-0000-7000-8000-00000000000{number}").bytes for number in (1, 2))
WAITS = "waits for decision 01980f3e-0000-7000-8000-000000000001"


@pytest.fixture
def airports(project: Project, db: Database) -> Airports:
    return Airports(project, db, ROWS)


def prepare(airports: Airports, decision_id: bytes = ONE, **how: Any) -> Decision:
    return migrations.prepare(airports.db, decision_id, airports.path, **how)


def on_disk(db: Database) -> dict[bytes, bytes]:
    """Return the keys and values of the tables, and the notes on what is being built."""
    db.tables.flush()
    view = db.tables.target.view
    found = dict(view.items(keys.SPACE.pack(1), b"\xff" * 9))
    for note in (keys.NOTE_ROWS, keys.NOTE_BUILT, keys.NOTE_END, keys.NOTE_PREPARED):
        found |= dict(view.items(note, note + b"\xff" * 9))
    return found


def test_it_is_built_and_waits_while_clients_use_the_previous_version(airports: Airports) -> None:
    db = airports.db
    version = db.schema.version
    done = prepare(airports, fence=3, actor="fleet", reason="release 9")
    assert (done.state, done.fence, done.title) == (DecisionState.PREPARED, 3, "20260101000001_two")
    assert airports.steps() == ["FINISHED", "STARTED", "PREPARED"]
    assert db.log.commit(done.seq).requires == [4, 5]
    assert db.schema.version == version
    db.put(airports.old, airports.old_row(5, "Jane"))
    assert db.get(airports.old, "A00005") == airports.old_row(5, "Jane")
    with pytest.raises(SchemaError, match="is newer; its migration is being applied"):
        db.get(airports.new, "A00005")
    with pytest.raises(MigrationError, match="`up` of table airports fails for row airports/A00006"):
        db.put(airports.old, airports.old.model(faa="A00006", name="Plato"))
    info = status(db, airports.path)[1]
    assert (info.prepared, info.decision_id, info.fence, info.rows, info.stopped) == (True, ONE, 3, ROWS, "")
    health = db.admin.status().health
    assert (health.ready, health.state) == (True, "prepared")
    assert health.reason == f"migration 20260101000001_two {WAITS}"
    committed = migrations.commit_prepared(db, ONE, fence=3, actor="fleet")
    assert committed.state is DecisionState.COMMITTED
    assert db.get(airports.new, "A00005") == airports.new_row(5, "Jane")
    assert db.count(airports.new.by_first, "John") == ROWS - 1
    assert not db.schema.is_online
    assert db.admin.status().health.state == "ready"
    assert [one.state for one in status(db, airports.path)] == ["applied", "applied"]


def test_an_abort_leaves_no_trace(airports: Airports) -> None:
    db = airports.db
    hashes, before = db.admin.hashes(), on_disk(db)
    prepare(airports)
    assert on_disk(db) != before
    done = migrations.abort_prepared(db, ONE, actor="fleet", reason="one refused")
    assert (done.state, done.version) == (DecisionState.ABORTED, 20260101000001)
    assert (db.admin.hashes(), on_disk(db)) == (hashes, before)
    assert airports.steps() == ["FINISHED", "STARTED", "PREPARED", "ROLLED_BACK"]
    assert current_migration(db) is None
    migrations.apply(db, airports.path)
    assert db.count(airports.new) == ROWS


def test_with_hold_both_versions_are_served_after_the_switch(airports: Airports) -> None:
    db = airports.db
    prepare(airports, hold=True)
    migrations.commit_prepared(db, ONE)
    assert airports.steps()[-1] == "SWITCHED"
    db.put(airports.new, airports.new_row(5, "Jane"))
    assert db.get(airports.old, "A00005") == airports.old_row(5, "Jane")
    completed = migrations.complete(db)
    with pytest.raises(MigrationError, match=r"was committed by commit .* it cannot be aborted"):
        migrations.abort_prepared(db, ONE)
    assert migrations.commit_prepared(db, ONE).seq < completed.seq
    migrations.rollback(db, source=airports.path)
    assert migrations.commit_prepared(db, ONE).state is DecisionState.COMMITTED


# other kinds of work


def test_an_index_over_a_new_field_is_built_in_a_copy_and_no_model_is_early(
    project: Project, db: Database
) -> None:
    project.add("one")
    project.add("two", **{**CITY, "table": CITY["table"].replace("{unique}", ", unique=True")})  # type: ignore[arg-type]
    path = project.build().path
    old, new = (migration.tables[0] for migration in project.load())
    migrations.apply(db, path, to=20260101000000)
    db.load(old, [old.model(faa=f"A{number}", name=f"name {number}") for number in range(ROWS)])
    before, hashes = on_disk(db), db.admin.hashes()
    migrations.prepare(db, ONE, path)
    assert "city" not in db.schema.tables["airports"].model.DESCRIPTOR.fields_by_name
    with pytest.raises(UniqueError):
        db.put(old, old.model(faa="B", name="name 7"))
    migrations.abort_prepared(db, ONE)
    assert (on_disk(db), db.admin.hashes()) == (before, hashes)
    migrations.prepare(db, TWO, path)
    db.put(old, old.model(faa="B", name="name B"))
    migrations.commit_prepared(db, TWO)
    assert db.count(new.by_city) == ROWS + 1
    assert db.get(old, "B") == old.model(faa="B", name="name B")
    with pytest.raises(UniqueError):
        db.put(new, new.model(faa="C", name="name B"))
    migrations.rollback(db, source=path)
    assert db.count(old) == ROWS + 1
    assert not db.schema.tables["airports"].indexes


def test_an_index_over_an_old_field_is_built_in_place(project: Project, db: Database, tmp_path: Path) -> None:
    project.add("one")
    unique = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME, unique=True),))'
    project.add("two", table=unique)
    path = project.build().path
    old, new = (migration.tables[0] for migration in project.load())
    migrations.apply(db, path, to=20260101000000)
    db.load(old, [old.model(faa=f"A{number}", name=f"name {number}") for number in range(ROWS)])
    before = on_disk(db)
    migrations.prepare(db, ONE, path)
    assert not db.schema.proto.building
    db.admin.rebuild_into(tmp_path / "rebuilt")
    with Database(tmp_path / "rebuilt") as rebuilt:  # the log does not have the entries of the index
        assert on_disk(rebuilt) == on_disk(db)
        with pytest.raises(UniqueError):
            rebuilt.put(old, old.model(faa="B", name="name 7"))
        migrations.commit_prepared(rebuilt, ONE)
        assert rebuilt.count(new.by_name, "name 7") == 1
    migrations.abort_prepared(db, ONE)
    assert on_disk(db) == before


def test_bootstrap_rows_are_part_of_the_vote(project: Project, db: Database) -> None:
    project.add("one")
    unique = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME, unique=True),))'
    project.add("two", table=unique, files={"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\n"})
    path = project.build().path
    old = project.load()[0].tables[0]
    migrations.apply(db, path, to=20260101000000)
    db.put(old, old.model(faa="EWR", name="Newark"))
    migrations.prepare(db, ONE, path, hold=True)  # no row is rewritten, so both versions can read them
    assert db.get(old, "JFK") is None
    with pytest.raises(UniqueError):
        db.put(old, old.model(faa="LGA", name="Kennedy"))
    migrations.commit_prepared(db, ONE)
    assert [row.faa for row in db.scan(old)] == ["EWR", "JFK"]


def test_rewritten_rows_and_bootstrap_rows_are_not_held_together(project: Project, db: Database) -> None:
    project.add("one", fields="string faa = 1; string name = 2;")
    project.add("two", **TRANSFORM, files={"bootstrap_airports.jsonl": '{"faa": "JFK"}\n'})  # type: ignore[arg-type]
    path = project.folders[1] / "__init__.py"
    path.write_text(path.read_text().replace('NAME = field("name", 2, STRING)\n', ""))
    project.build()
    migrations.apply(db, project.path, to=20260101000000)
    head = db.head
    with pytest.raises(MigrationError, match="two versions cannot be served after its switch"):
        migrations.prepare(db, ONE, project.path, hold=True)
    assert db.head == head
    migrations.prepare(db, ONE, project.path)


def test_a_migration_that_builds_nothing_waits_as_well(project: Project, db: Database) -> None:
    project.add("one")
    project.add("two", fields="string faa = 1; string name = 2; string city = 3;")
    path = project.build().path
    old, new = (migration.tables[0] for migration in project.load())
    migrations.apply(db, path, to=20260101000000)
    migrations.prepare(db, ONE, path)
    with pytest.raises(SchemaError):
        db.put(new, new.model(faa="JFK", city="New York"))
    db.put(old, old.model(faa="JFK", name="Kennedy"))
    migrations.commit_prepared(db, ONE)
    assert db.get(new, "JFK") == new.model(faa="JFK", name="Kennedy")


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"checks.py": "def checks(db):\n    return []\n"}, r"checks\.py is run at the switch"),
        (
            {"bootstrap.py": "from . import AIRPORTS\n\n\ndef deleted():\n    yield AIRPORTS, 'JFK'\n"},
            r"bootstrap\.py deletes rows at the switch",
        ),
    ],
)
def test_what_a_vote_cannot_hold_is_refused_before_anything_is_built(
    project: Project, db: Database, files: dict[str, str], why: str
) -> None:
    project.add("one")
    project.add("two", files=files)
    project.add("three")
    path = project.build().path
    migrations.apply(db, path, to=20260101000000)
    head = db.head
    with pytest.raises(MigrationError, match=rf"two cannot be prepared, because {why}"):
        migrations.prepare(db, ONE, path, to=20260101000001)
    with pytest.raises(MigrationError, match=why):
        migrations.plan(db, path, to=20260101000001, prepare=True)
    with pytest.raises(
        MigrationError, match=r"2 migrations are pending, .* prepare 20260101000001_two first"
    ):
        migrations.prepare(db, ONE, path)
    assert db.head == head


def test_a_migration_that_does_not_fit_the_rows_votes_no_and_stays_so(airports: Airports) -> None:
    db = airports.db
    db.put(airports.old, airports.old.model(faa="A00006", name="Plato"))
    before = on_disk(db)
    with pytest.raises(MigrationError, match=r"was not prepared, and the database is unchanged: .*A00006"):
        prepare(airports)
    assert on_disk(db) == before
    db.put(airports.old, airports.old_row(6))
    with pytest.raises(MigrationError, match=r"was aborted by commit \d+ .*A00006.*take another id"):
        prepare(airports)
    prepare(airports, TWO)


# in doubt it stays prepared


def test_nobody_else_ends_it(airports: Airports) -> None:
    db, path = airports.db, airports.path
    schema = migrations.dump_schema(db)
    prepare(airports)
    before = db.head
    rules = Rules(frozenset({"ann"}), own=True)
    approval = Approval(db, path, "airports", rules)
    calls: list[Callable[[], Any]] = [
        lambda: migrations.apply(db, path),
        lambda: migrations.plan(db, path),
        lambda: migrations.complete(db),
        lambda: migrations.cancel(db),
        lambda: migrations.rollback(db, source=path),
        lambda: migrations.plan_rollback(db, to=0, source=path),
        lambda: prepare(airports, TWO),
        lambda: migrations.commit_prepared(db, TWO),
        lambda: migrations.baseline(db, 20260101000000, path),
        lambda: migrations.load_schema(db, schema),
        lambda: migrations.accept(db, path),
        lambda: approval.propose(actor="ann", again=True),
        lambda: approval.cancel(actor="ann", reason="slow"),
    ]
    for call in calls:
        with pytest.raises(MigrationError, match=f"{WAITS}, which alone ends it: `everlog commit-prepared"):
            call()
    with pytest.raises(MigrationError, match=f"after it is finished, or given up: it {WAITS}"):
        migrations.dump_schema(db)
    with pytest.raises(MigrationError, match="decision 01980f3e-0000-7000-8000-000000000002, but"):
        prepare(airports, TWO)
    run = AutoRun(db, path)
    assert run.run() == []
    assert WAITS in run.left_out
    with pytest.raises(MigrationError, match="is migrated after approval, not by `prepare`"):  # noqa: SIM117
        with approval.allowed("prepare", actor="ann", reason="release 9"):
            pass
    with approval.allowed("commit-prepared", actor="ann", reason="release 9"):
        pass
    approval.prepare_or_report()
    approval.start()
    assert approval.problem == ""
    assert db.head == before


def test_a_program_that_opens_it_uses_the_previous_version(
    project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Database(tmp_path / "db") as db:
        airports = Airports(project, db, ROWS)
        prepare(airports)
    with everlog.open(tmp_path / "db", migrations=airports.path) as again:
        assert WAITS in caplog.text
        again.put(airports.old, airports.old_row(5, "Jane"))
        with pytest.raises(MigrationError, match=WAITS):
            again.migrations.apply()
        with everlog.open(tmp_path / "db", read_only=True) as beside:
            assert [one.prepared for one in beside.migrations.status()] == [False, True]
            with pytest.raises(MigrationError, match=WAITS):
                everlog.open(tmp_path / "db", read_only=True, migrations=airports.path)
        assert again.migrations.commit_prepared(ONE).state == "committed"
        assert again.get(airports.new, "A00005") == airports.new_row(5, "Jane")


def test_while_it_is_being_prepared_only_its_orders_continue_it(airports: Airports) -> None:
    db = airports.db

    def stop(step: Progress) -> None:
        if "rewrite" in step.step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(airports, progress=stop, fence=2)
    says = "has been in preparation for decision 01980f3e-0000-7000-8000-000000000001 since commit"
    calls: list[Callable[[], Any]] = [
        lambda: migrations.apply(db, airports.path),
        lambda: migrations.commit_prepared(db, ONE),
        lambda: prepare(airports, TWO),
    ]
    for call in calls:
        with pytest.raises(MigrationError, match=says):
            call()
    info = status(db, airports.path)[1]
    assert (info.prepared, info.decision_id, info.fence) == (False, ONE, 2)
    assert prepare(airports).fence == 2
    migrations.abort_prepared(db, ONE)
    with pytest.raises(KeyboardInterrupt):
        prepare(airports, TWO, progress=stop)
    migrations.cancel(db, actor="ann")  # before the vote a database may say no
    with pytest.raises(MigrationError, match="was aborted by commit"):
        prepare(airports, TWO)


# orders


def test_orders_that_come_twice_get_the_first_answer(airports: Airports) -> None:
    db = airports.db
    prepared = prepare(airports)
    assert prepare(airports) == prepared
    migrations.abort_prepared(db, ONE)
    aborted = migrations.abort_prepared(db, ONE)
    prepare(airports, TWO)
    committed = migrations.commit_prepared(db, TWO)
    head = db.head
    assert migrations.abort_prepared(db, ONE) == aborted
    assert migrations.commit_prepared(db, TWO) == committed == prepare(airports, TWO)
    contradictions: list[tuple[Callable[[], Any], str]] = [
        (lambda: prepare(airports), "was aborted by commit .*; it cannot be prepared any more"),
        (lambda: migrations.commit_prepared(db, ONE), "was aborted by commit .*; it cannot be committed"),
        (lambda: migrations.abort_prepared(db, TWO), "was committed by commit .*; it cannot be aborted"),
    ]
    for call, says in contradictions:
        with pytest.raises(MigrationError, match=says):
            call()
    assert db.head == head


def test_an_abort_before_the_order_to_prepare_refuses_that_order(airports: Airports) -> None:
    db = airports.db
    with pytest.raises(MigrationError, match=r"is unknown here, and no migration is prepared"):
        migrations.commit_prepared(db, ONE)
    done = migrations.abort_prepared(db, ONE, fence=4)
    assert (done.state, done.title, done.fence) == (DecisionState.ABORTED, "", 4)
    assert migrations.abort_prepared(db, ONE) == done
    with pytest.raises(MigrationError, match="was aborted by commit"):
        prepare(airports)
    prepare(airports, TWO, fence=4)
    migrations.abort_prepared(db, bytes(16), fence=4)
    assert status(db, airports.path)[1].prepared


def test_an_order_with_a_lower_fence_is_refused(airports: Airports) -> None:
    db = airports.db
    prepare(airports, fence=3)
    raised = prepare(airports, fence=5)
    assert (raised.fence, airports.steps()[2:]) == (5, ["PREPARED", "PREPARED"])
    says = "about decision 01980f3e-0000-7000-8000-000000000001 has fence 4, but commit .* has fence 5"
    calls: list[Callable[[], Any]] = [
        lambda: prepare(airports, fence=4),
        lambda: migrations.commit_prepared(db, ONE, fence=4),
        lambda: migrations.abort_prepared(db, ONE, fence=4),
    ]
    for call in calls:
        with pytest.raises(MigrationError, match=says):
            call()
    assert migrations.abort_prepared(db, ONE, fence=6).fence == 6
    with pytest.raises(MigrationError, match=r"has fence 5, but commit \d+ has fence 6"):
        prepare(airports, TWO, fence=5)
    assert prepare(airports, TWO).state is DecisionState.PREPARED  # an order without a fence


@pytest.mark.parametrize(
    ("decision_id", "fence", "says"),
    [
        (b"short", 0, "expected a decision id, the 16 bytes of a UUID, found 5 bytes"),
        (str(uuid.UUID(bytes=ONE)), 0, "expected a decision id, the 16 bytes of a UUID, found str"),
        (ONE, -1, "expected a fence from 0"),
        (ONE, "7", "expected a fence"),
    ],
)
def test_invalid_orders_are_refused(db: Database, decision_id: Any, fence: Any, says: str) -> None:
    for call in (migrations.commit_prepared, migrations.abort_prepared, migrations.prepare):
        with pytest.raises(MigrationError, match=says):
            call(db, decision_id, fence=fence)
    assert db.head == 1


# copies, followers, folders, servers


def test_a_decision_needs_no_folder(airports: Airports) -> None:
    db = airports.db
    prepare(airports)
    following = db.log.commit(db.head).migration.following
    shutil.rmtree(airports.path)
    migrations.commit_prepared(db, ONE)
    assert db.schema.proto == following
    assert db.count(airports.new.by_first, "John") == ROWS


def test_an_edited_folder_does_not_write_and_changes_no_vote(project: Project, tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        airports = Airports(project, db, ROWS)
        prepare(airports)
    code = project.folders[1] / "__init__.py"
    code.write_text(code.read_text().replace("first=first", "first=last"))
    migrations.build(project.path)
    with pytest.raises(MigrationError, match=f"two was edited after commit .*; it is prepared, and {WAITS}"):
        everlog.open(tmp_path / "db", migrations=project.path)
    with EmbeddedDatabase(tmp_path / "db") as again:
        with pytest.raises(MigrationError, match="this program lacks the code"):
            again.put(airports.old, airports.old_row(5))
        again.migrations.commit_prepared(ONE)
        assert again.count(airports.new.by_first, "John") == ROWS


@pytest.mark.parametrize("fork", [False, True])
def test_a_restored_copy_is_prepared_and_names_its_decision(
    airports: Airports, tmp_path: Path, *, fork: bool
) -> None:
    prepare(airports, fence=3)
    backup(airports.db, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "copy", fork=fork)
    with Database(tmp_path / "copy") as copy:
        info = status(copy, airports.path)[1]
        assert (info.prepared, info.decision_id, info.fence) == (True, ONE, 3)
        with pytest.raises(MigrationError, match=WAITS):
            migrations.apply(copy, airports.path)
        migrations.commit_prepared(copy, ONE, fence=3)
        assert copy.count(airports.new) == ROWS
        migrations.commit_prepared(airports.db, ONE, fence=3)
        assert copy.admin.hashes() == airports.db.admin.hashes()


def test_followers_see_nothing_before_the_commit(project: Project, tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db, SqliteSink(tmp_path / "mirror.db") as sink:
        airports = Airports(project, db, ROWS)
        follower = Follower(db, sink)
        follower.run(bounded=True)

        def columns() -> set[str]:
            with closing(sqlite3.connect(tmp_path / "mirror.db")) as read:
                return {row[1] for row in read.execute('PRAGMA table_info("airports")')}

        before = columns()
        prepare(airports)
        db.put(airports.old, airports.old_row(5, "Jane"))
        follower.run(bounded=True)
        assert (columns(), verify(db, sink)) == (before, [])
        db.migrations.abort_prepared(ONE)
        follower.run(bounded=True)
        assert (columns(), verify(db, sink)) == (before, [])
        prepare(airports, TWO)
        db.migrations.commit_prepared(TWO)
        follower.run(bounded=True)
        assert {"first", "last"} <= columns()
        assert verify(db, sink) == []


def test_a_server_prepares_and_decides(project: Project, tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db:
        airports = Airports(project, db, ROWS)
        with (
            Server({"x": db}, migrations={"x": str(airports.path)}) as server,
            RemoteDatabase(f"everlog+insecure://127.0.0.1:{server.port}/x") as remote,
        ):
            done = remote.migrations.prepare(ONE, fence=3, actor="fleet", reason="release 9")
            assert (done.state, done.version, done.fence) == (DecisionState.PREPARED, 20260101000001, 3)
            assert done == migrations.prepare(db, ONE, airports.path)
            info = remote.migrations.status()[1]
            assert (info.prepared, info.decision_id, info.fence) == (True, ONE, 3)
            assert remote.admin.health().state == "prepared"
            with pytest.raises(MigrationError, match=WAITS):
                remote.migrations.apply()
            with pytest.raises(MigrationError, match="has fence 2, but commit"):
                remote.migrations.commit_prepared(ONE, fence=2)
            done = remote.migrations.commit_prepared(ONE, fence=3, actor="fleet")
            assert done == migrations.commit_prepared(db, ONE)
            assert remote.get(airports.new, "A00005") == airports.new_row(5)
            assert remote.migrations.abort_prepared(TWO).state is DecisionState.ABORTED


def test_an_abort_stops_the_thread_that_prepares(airports: Airports) -> None:
    db, building = airports.db, threading.Event()
    before, ended = on_disk(db), list[str]()

    def wait(step: Progress) -> None:
        if "rewrite" in step.step:
            building.set()
            for _ in range(3000):
                check_going(db.uuid)
                time.sleep(0.01)

    def work() -> None:
        try:
            prepare(airports, progress=wait, fence=3)
        except MigrationError as error:
            ended.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    assert building.wait(30)
    with pytest.raises(MigrationError, match="has fence 2, but commit"):
        migrations.abort_prepared(db, ONE, fence=2)
    done = migrations.abort_prepared(db, ONE, actor="fleet", reason="one refused")
    thread.join(30)
    assert (done.state, done.actor, done.version) == (DecisionState.ABORTED, "fleet", 20260101000001)
    assert "it was cancelled by fleet (one refused)" in ended[0]
    assert on_disk(db) == before


def test_the_vote_and_the_decision_are_on_disk_whatever_the_durability(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Database(tmp_path / "db", durability="os") as db:
        airports = Airports(project, db, ROWS)
        sync, synced = db.engine.sync_log, list[int]()

        def noted(*args: Any, **kwargs: Any) -> Any:
            synced.append(db.log.written)
            return sync(*args, **kwargs)

        monkeypatch.setattr(db.engine, "sync_log", noted)
        assert prepare(airports).seq <= synced[-1]
        assert migrations.commit_prepared(db, ONE).seq <= synced[-1]
