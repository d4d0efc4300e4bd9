from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog import MigrationError, SchemaError, migrations
from everlog.migrations import Approval
from everlog.migrations.approval import notify
from everlog.migrations.approval.auto import AutoRun
from everlog.migrations.approval.notify import Notifier
from tests.migrations.approving import UNIQUE, one_pending, put
from tests.migrations.project import Project
from tests.migrations.receiver import Receiver


@pytest.fixture
def approval(project: Project, tmp_path: Path) -> Iterator[Approval]:
    """Return one applied migration, and a pending one: a unique index over names."""
    with one_pending(project, tmp_path / "db", UNIQUE) as approval:
        yield approval


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def start(approval: Approval, *receivers: Receiver) -> AutoRun:
    """Start a server, and end it at once."""
    run = AutoRun(approval.db, approval.source, "airports")
    notifier = Notifier([one.url for one in receivers], [run], retry_s=0.02)
    run.changed = notifier.wake
    with notifier:
        run.run(actor="deploy", reason="release 7")
    return run


def words(receiver: Receiver) -> list[str]:
    return [title.partition("airports: ")[2].partition("migration to ")[2] for title in receiver.titles]


def test_what_is_applied_at_a_start_is_told_once(
    approval: Approval, receiver: Receiver, project: Project
) -> None:
    to = project.load()[-1]
    start(approval, receiver)
    assert words(receiver) == [f"{to.version} has started", f"{to.version} has finished"]
    begun, done = receiver.received
    assert begun["message"].splitlines()[:2] == ["Started by deploy: release 7", f"- {to.title}"]
    assert done["message"].splitlines()[1].startswith(f"- {to.title} (commit ")
    assert [begun["type"], done["type"]] == ["info", "success"]
    start(approval, receiver)
    assert len(receiver.received) == 2


def test_what_fails_at_each_start_is_told_once_for_each_reason(
    approval: Approval, receiver: Receiver, project: Project
) -> None:
    put(approval, "JF2", "Kennedy")
    for _ in range(3):
        with pytest.raises(MigrationError):
            start(approval, receiver)
    assert [word.partition(" ")[2] for word in words(receiver)] == ["has started", "has failed"]
    assert "the same name" in receiver.received[1]["message"]
    assert receiver.received[1]["type"] == "failure"
    put(approval, "JF2", "Kennedy again")
    start(approval, receiver)
    assert [word.partition(" ")[2] for word in words(receiver)] == [
        "has started",
        "has failed",
        "has finished",
    ]


def test_folders_that_cannot_be_loaded_are_told(
    approval: Approval, receiver: Receiver, project: Project
) -> None:
    constants = project.folders[-1] / "model.proto"
    constants.write_text(constants.read_text().replace("package", "packaging"))
    with pytest.raises(SchemaError):
        start(approval, receiver)
    (only,) = receiver.received
    assert only["title"] == "airports: migrating has failed"
    assert "found no package" in only["message"] or "is stale" in only["message"]


def test_who_cannot_be_reached_does_not_keep_a_server_from_starting(
    approval: Approval, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    with Receiver(refuse=2) as late:
        run = AutoRun(approval.db, approval.source, "airports")
        with Notifier([late.url], [run], retry_s=0.02) as notifier:
            run.changed = notifier.wake
            run.run()
            late.wait_for(2)  # while it is served
        assert [word.partition(" ")[2] for word in words(late)] == ["has started", "has finished"]
    assert "retrying" in caplog.text


def test_what_was_told_is_in_the_log(approval: Approval, receiver: Receiver) -> None:
    head = approval.db.head
    start(approval, receiver)
    told = notify.read(approval.db, head)
    assert sorted(subject.rpartition("/")[2] for subject, _ in told) == ["finished", "started"]
    assert migrations.status(approval.db, approval.source)[-1].state is migrations.State.APPLIED
