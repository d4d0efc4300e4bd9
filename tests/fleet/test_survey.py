"""Surveys of a database, embedded and on a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from everlog import CorruptionError, migrations
from everlog.audit.restore import restore
from everlog.feed import cursor
from everlog.fleet.survey import decode_survey, is_newer, survey
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.upkeep.status import software
from tests.migrations.conftest import project
from tests.migrations.project import Project
from tests.migrations.test_online import Airports

__all__ = ["project"]

START, END = 20260101000000, 20260101000001


class Seen:
    """A database with three rows and a pending migration, seen embedded or through a server."""

    def __init__(self, airports: Airports, db: EmbeddedDatabase, seen: EmbeddedDatabase | RemoteDatabase):
        self.airports, self.db, self.seen = airports, db, seen


@pytest.fixture(params=["embedded", "server"])
def seen(request: pytest.FixtureRequest, project: Project, tmp_path: Path) -> Iterator[Seen]:
    with EmbeddedDatabase(tmp_path / "db") as db, ExitStack() as stack:
        airports = Airports(project, db, 3)
        db.folders = airports.path
        other: EmbeddedDatabase | RemoteDatabase = db
        if request.param == "server":
            server = stack.enter_context(Server({"db": db}, migrations={"db": str(airports.path)}))
            other = stack.enter_context(RemoteDatabase(server.url("db")))
            other.folders = airports.path
        yield Seen(airports, db, other)


def test_a_member_says_what_it_is_and_what_its_next_migration_does(seen: Seen) -> None:
    head = seen.db.head
    found = survey(seen.seen, name="shop-1", labels={"region": "eu"})
    assert (found.name, found.labels, found.version) == ("shop-1", {"region": "eu"}, START)
    assert (found.database, found.software) == (cursor.name(seen.db.uuid), software())
    assert cursor.parse(found.at) == seen.db.cursor()
    assert [(one.version, one.state) for one in found.migrations] == [(START, "applied"), (END, "pending")]
    intended = found.intended
    assert intended is not None
    assert (intended.version, intended.unheld, found.problem, found.errors) == (END, "", "", [])
    assert any("3 rows" in step.text and step.rows == 3 for step in intended.steps), intended.steps
    assert (intended.estimate.rows > 0, intended.estimate.bytes > 0) == (True, True)
    assert (found.linted, {one.id for one in found.findings} >= {"test/no-tests"}) == (True, True)
    assert decode_survey(found.encode()) == found
    assert seen.db.head == head


def test_the_findings_are_missing_where_the_folders_are(seen: Seen, tmp_path: Path) -> None:
    if isinstance(seen.seen, EmbeddedDatabase):
        seen.db.folders = tmp_path / "none"
        found = survey(seen.seen, name="shop-1")
        assert found.problem.startswith("no directory ")
    else:
        seen.seen.folders = tmp_path / "none"
        found = survey(seen.seen, name="shop-1")
        assert found.intended is not None
    assert (found.linted, found.findings) == (False, [])


def test_a_row_that_does_not_fit_is_an_error_without_its_content(seen: Seen) -> None:
    seen.db.put(seen.airports.old, seen.airports.old.model(faa="B", name="Plato"))
    found = survey(seen.seen, name="shop-1")
    assert len(found.errors) >= 1
    assert "1 of 4 rows" in " ".join(found.errors)
    assert b"Plato" not in found.encode()


def test_an_up_to_date_member_intends_nothing(seen: Seen) -> None:
    migrations.apply(seen.db, seen.airports.path)
    found = survey(seen.seen, name="shop-1")
    assert (found.version, found.intended, found.problem, found.pending) == (END, None, "", [])


def test_a_prepared_member_names_the_decision_that_it_waits_for(seen: Seen) -> None:
    seen.db.migrations.prepare(bytes(15) + b"\1")
    found = survey(seen.seen, name="shop-1")
    assert found.problem == (f"migration {END}_two waits for decision 00000000-0000-0000-0000-000000000001")
    assert (found.version, found.schema, found.intended) == (START, "", None)


def test_a_migration_that_no_vote_can_hold_says_why(seen: Seen) -> None:
    checks = "def checks(tx):\n    yield from ()\n"
    (seen.airports.path / f"v{END}_two" / "checks.py").write_text(checks)
    found = survey(seen.seen, name="shop-1")
    assert found.intended is not None
    assert "checks.py is run at the switch" in found.intended.unheld
    assert found.problem == ""


def test_an_edited_folder_is_a_problem(seen: Seen) -> None:
    model = next(seen.airports.path.glob(f"v{START}_*")) / "bootstrap.py"
    model.write_text("def bootstrap():\n    yield from ()\n")
    found = survey(seen.seen, name="shop-1")
    assert f"migration {START}_one was edited after commit" in found.problem
    assert (found.intended, found.migrations[0].state) == (None, "edited")


def test_a_restored_and_a_forked_database_are_found_by_an_earlier_position(tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db:
        db.admin.set_production(True)
        db.archive.backup(str(tmp_path / "backup"))
        db.admin.set_production(False)
        at = cursor.show(db.cursor())
        assert survey(db, name="shop-1", since=at).problem == ""
    restore(tmp_path / "backup", tmp_path / "restored")
    with EmbeddedDatabase(tmp_path / "restored") as db:
        assert survey(db, name="shop-1", since=at).problem.startswith("the cursor is ahead of the log")
        db.admin.set_production(False)
        assert survey(db, name="shop-1", since=at).problem.startswith("the cursor is of another history")


def test_an_earlier_position_may_be_archived(tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db:
        at = cursor.show(db.cursor())
        for on in (True, False, True):
            db.admin.set_production(on)
        db.archive.move(str(tmp_path / "archive"))
        assert survey(db, name="shop-1", since=at).problem == ""


def test_a_reader_cannot_be_a_member(seen: Seen) -> None:
    if isinstance(seen.seen, EmbeddedDatabase):
        with EmbeddedDatabase(seen.db.path, read_only=True) as reader:
            reader.folders = seen.airports.path
            assert survey(reader, name="shop-1").problem.startswith("it is open for reading only")
        return
    with (
        Server({"db": seen.db}, tokens={"ann": "t1"}, roles={"ann": ("reader",)}) as server,
        RemoteDatabase(server.url("db") + "?token=t1") as reader,
    ):
        problem = survey(reader, name="shop-1").problem
        assert problem.startswith("ann lacks the right migrate (roles: reader)")


def test_an_invalid_document_is_refused() -> None:
    with pytest.raises(CorruptionError, match="expected the survey of a database as JSON, found: "):
        decode_survey(b'{"name": 1}')


@pytest.mark.parametrize(
    ("other", "newer"),
    [
        (software(), False),
        ("everlog 0.0.9", False),
        ("everlog 0.10.0", True),
        ("everlog 99", True),
        ("everlog", False),
    ],
)
def test_a_newer_everlog_is_recognized(other: str, newer: bool) -> None:
    assert is_newer(other) is newer
