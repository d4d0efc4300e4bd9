"""Surveys of connected members, and their tasks, over real sockets."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from everlog import MigrationError, RowError
from everlog.feed import cursor
from everlog.fleet import tasks
from everlog.fleet.drift import drift
from everlog.fleet.member import folder_digest
from everlog.fleet.protocol import Target
from everlog.fleet.tasks import Answer, Asked, Kind, MemberTask, carry_out
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.progress import Progress
from tests.fleet.test_transport import (
    END,
    START,
    Coordinator,
    airports,
    connected,
    coordinator,
    fleet,
    joined,
    made,
    when,
)
from tests.migrations.conftest import project
from tests.migrations.test_online import Airports

__all__ = ["airports", "coordinator", "fleet", "project"]


def test_connected_members_are_surveyed_and_others_are_named(
    coordinator: Coordinator, fleet: Any, airports: Airports, tmp_path: Path
) -> None:
    seen = list[Progress]()
    with ExitStack() as stack:
        north, south = (
            stack.enter_context(
                joined(coordinator, airports, made(airports, tmp_path / name), fleet_labels={"at": name})
            )
            for name in ("north", "south")
        )
        with joined(coordinator, airports, made(airports, tmp_path / "west")):
            when(fleet, connected("north", "south", "west"))
        when(fleet, lambda found: not connected("west")(found))
        south.put(airports.old, airports.old.model(faa="B", name="Plato"))
        head = north.head
        found = fleet.survey(progress=seen.append)
        assert [one.name for one in found.surveys] == ["north", "south"]
        first, second = found.surveys
        assert (first.database, first.labels, first.version) == (
            cursor.name(north.uuid),
            {"at": "north"},
            START,
        )
        assert first.intended is not None
        assert (first.intended.version, first.errors, first.linted, north.head) == (END, [], True, head)
        assert "1 of 51 rows" in " ".join(second.errors)
        assert [(one.name, one.reason) for one in found.problems] == [
            ("west", "it is not connected; start its process, or leave it out (name!=west)")
        ]
        assert (seen[-1].done, seen[-1].total) == (2, 2)
        with pytest.raises(MigrationError, match=r"1 member of 3 could not be surveyed, .*: west: it is not"):
            found.check()
        assert [group.members for group in drift(found.surveys)] == [("north", "south")]
        assert [one.name for one in fleet.survey("at=south").surveys] == ["south"]
        with pytest.raises(MigrationError, match="no member is selected by 'at=east'"):
            fleet.survey("at=east")
        with pytest.raises(RowError, match="expected label=value, "):
            fleet.survey("at?")


def test_a_member_that_does_not_answer_is_a_problem(
    coordinator: Coordinator,
    fleet: Any,
    airports: Airports,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with joined(coordinator, airports, made(airports, tmp_path / "north")) as north:
        when(fleet, connected("north"))
        monkeypatch.setattr(tasks, "DOCUMENT_MAX", 10)
        (problem,) = fleet.survey().problems
        assert "more than 10; `everlog lint`" in problem.reason
        (problem,) = fleet.survey(deadline_s=1e-6).problems
        assert problem.database == cursor.name(north.uuid)
        assert "has not answered within 1e-06 s; try again, or leave it out (name!=north)" in problem.reason


def test_a_task_is_carried_out_twice_without_another_effect(airports: Airports, tmp_path: Path) -> None:
    with EmbeddedDatabase(made(airports, tmp_path / "north")) as db:
        db.folders = airports.path
        digest = folder_digest(db.migrations.status())
        target = Target(db.uuid, START, END, digest)

        def do(kind: Kind, target: Target = target) -> Answer:
            return carry_out(db, MemberTask(bytes(16), kind, 1, target, "wave 1"), name="north", labels={})

        refused = do(Kind.APPLY, Target(db.uuid, START, END, b"other"))
        assert refused.problem.startswith("expected folders with digest 6f74686572, found")
        for _ in range(2):
            assert do(Kind.APPLY).problem == ""
            assert db.schema.version == END
        head = db.head
        assert do(Kind.APPLY).problem == ""
        assert do(Kind.CHECK).problem == ""
        assert db.head == head
        entries = list(db.past.log(kind="migration"))
        assert (entries[-1].actor, entries[-1].reason) == ("fleet", "wave 1")
        for _ in range(2):
            assert do(Kind.ROLL_BACK).problem == ""
            assert db.schema.version == START
        assert do(Kind.APPLY, Target(db.uuid, 7, END, digest)).problem == f"expected version 7, found {START}"
        assert do(Kind.ROLL_BACK, Target(db.uuid, 7, END, digest)).problem == (
            f"expected version {END}, found {START}"
        )


def test_a_check_of_an_applied_migration_runs_on_the_rows_as_they_are(
    airports: Airports, tmp_path: Path
) -> None:
    (airports.path / f"v{END}_two" / "checks.py").write_text(
        "from .. import v20260101000001_two as two\n\n\n"
        "def checks(db):\n"
        "    if db.count(two.MIGRATION.tables[0]) > 50:\n"
        "        yield 'too many airports'\n"
    )
    with EmbeddedDatabase(made(airports, tmp_path / "north")) as db:
        db.folders = airports.path
        db.migrations.apply()
        target = Target(db.uuid, START, END, b"")
        task = MemberTask(bytes(16), Kind.CHECK, 1, target)
        assert carry_out(db, task, name="north", labels={}).problem == ""
        db.put(airports.new, airports.new_row(99))
        answer = carry_out(db, task, name="north", labels={})
        assert "a check after the migration failed: too many airports" in answer.problem
        missing = task._replace(target=Target(db.uuid, START, 7, b""))
        assert "expected migration 7 in " in carry_out(db, missing, name="north", labels={}).problem


def test_the_first_answer_of_each_member_counts() -> None:
    targets = [Target(bytes([number]) * 16, 0, 0, b"") for number in (1, 2)]
    asked = Asked(Kind.SURVEY, targets)
    first, second = (one.database for one in targets)
    asked.answered(Answer(bytes(16), asked.id))
    asked.answered(Answer(first, asked.id, "one"))
    asked.answered(Answer(first, asked.id, "two"))
    assert ([one.database for one in asked.waiting], asked.over) == ([second], False)
    assert asked.answers[first].problem == "one"
    asked.answered(Answer(second, asked.id))
    assert (asked.waiting, asked.over) == ([], True)
