from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from everlog import MigrationError, OpenError, migrations
from everlog.migrations import Approval
from everlog.migrations.approval import notify
from everlog.migrations.approval.notify import Notifier, ServerEvents, message_of, targets
from tests.migrations.approving import UNIQUE, one_pending
from tests.migrations.project import Project
from tests.migrations.receiver import Receiver

PAGE = "http://127.0.0.1:7421/migrations/"


@pytest.fixture
def approval(project: Project, tmp_path: Path) -> Iterator[Approval]:
    """Return one applied migration, a pending one, and a page."""
    with one_pending(project, tmp_path / "db", UNIQUE) as approval:
        approval.link = lambda digest: PAGE + digest.hex()
        yield approval


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def notifying(approval: Approval, *receivers: Receiver) -> Notifier:
    notifier = Notifier([one.url for one in receivers], [approval], retry_s=0.02)
    approval.changed = notifier.wake
    return notifier


def words(receiver: Receiver) -> list[str]:
    return [title.partition("migration to ")[2].partition(" ")[2] for title in receiver.titles]


def test_whoever_is_named_is_told_of_each_event_in_order(approval: Approval, receiver: Receiver) -> None:
    with notifying(approval, receiver):
        found = approval.propose(actor="deploy", reason="release 7")
        assert found is not None
        (message,) = receiver.wait_for(1)
        lines = message["message"].splitlines()
        (step,) = found.plan.migrations[0].steps
        assert step.text.startswith("build unique index airports.by_name over 2 rows")
        assert [line for line in lines if not line.startswith("Findings")] == [
            "Proposed by deploy: release 7",
            f"- {found.plan.migrations[0].title}: {step.text}",
            PAGE + found.digest.hex(),
            f"({found.digest.hex()}/proposed)",
        ]
        approval.approve(found.short, actor="ann", reason="yes")
        approval.run()
        receiver.wait_for(4)
    assert words(receiver) == ["waits for approval", "is approved", "has started", "has finished"]
    assert [one["type"] for one in receiver.received] == ["warning", "info", "info", "success"]


def test_what_failed_is_told_with_the_reason(approval: Approval, receiver: Receiver) -> None:
    table = migrations.load(approval.source)[0].tables[0]
    with notifying(approval, receiver):
        found = approval.propose(actor="deploy")
        assert found is not None
        approval.approve(found.short, actor="ann", reason="yes")
        approval.db.put(table, table.model(faa="JF2", name="Kennedy"))
        with pytest.raises(MigrationError):
            approval.run()
        message = receiver.wait_for(4)[3]
    assert words(receiver)[-1] == "has failed"
    assert message["type"] == "failure"
    assert "the same name" in message["message"]
    assert "Kennedy" not in message["message"]


def test_who_cannot_be_reached_is_told_later_in_order_and_the_others_at_once(
    approval: Approval, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    with Receiver(refuse=3) as late, notifying(approval, receiver, late):
        found = approval.propose(actor="deploy")
        assert found is not None
        approval.reject(found.short, actor="bob", reason="no")
        late.wait_for(2)
        receiver.wait_for(2)
        assert words(late) == words(receiver) == ["waits for approval", "is rejected"]
        assert late.asked == 5
    assert "did not accept" in caplog.text
    assert "retrying" in caplog.text


def test_what_was_told_is_in_the_log_and_is_not_told_again(
    approval: Approval, receiver: Receiver, project: Project
) -> None:
    found = approval.propose(actor="deploy")
    assert found is not None
    for _ in range(3):
        with notifying(approval, receiver):
            receiver.wait_for(1)
    with Receiver() as other, notifying(approval, receiver, other):
        other.wait_for(1)  # a new target is notified
    assert len(receiver.received) == 1
    told = notify.read(approval.db, found.proposed.seq)
    subject = f"{found.digest.hex()}/proposed"
    assert told == {(subject, notify.whom(one.url)) for one in (receiver, other)}
    assert notify.read(approval.db, approval.db.head) == set()


def test_a_url_that_is_none_is_refused_without_showing_it(approval: Approval) -> None:
    with pytest.raises(
        OpenError, match=r"URL 1 to notify .* with the unsupported scheme 'nonsense'"
    ) as caught:
        Notifier(["nonsense://secret"], [approval])
    assert "secret" not in str(caught.value)


def test_what_happened_while_nobody_was_there_is_told_though_a_newer_proposal_comes_at_once(
    approval: Approval, receiver: Receiver
) -> None:
    first = approval.propose(actor="deploy")
    assert first is not None
    approval.reject(first.short, actor="bob", reason="no")
    with notifying(approval, receiver):
        approval.propose(actor="deploy", again=True)
        receiver.wait_for(3)
    assert words(receiver) == ["waits for approval", "is rejected", "waits for approval"]


def test_certificates_are_told_of_once_a_day_whatever_restarts_lie_between(
    approval: Approval, receiver: Receiver
) -> None:
    days, what = (
        [date(2026, 1, 5)],
        {"server.pem CN=x 2026-01-20": "server.pem ends on 2026-01-20, in 15 days"},
    )
    server = ServerEvents(approval.db, "flights", today=lambda: days[-1])
    for _ in range(2):
        with Notifier([receiver.url], [approval], server=server, retry_s=0.02) as notifier:
            for days_left in (15, 14):  # the same certificate, in other words
                server.certificates = {one: f"{text}: {days_left}" for one, text in what.items()}
                notifier.wake()
    (message,) = receiver.wait_for(1)
    assert message["title"] == "flights: a certificate of the server must be replaced"
    assert message["message"].startswith("server.pem ends on 2026-01-20")
    with Notifier([receiver.url], [approval], server=server, retry_s=0.02) as notifier:
        days.append(date(2026, 1, 6))
        notifier.wake()
        receiver.wait_for(2)
        server.certificates = {}
        days.append(date(2026, 1, 7))
        notifier.wake()
    assert len(receiver.received) == 2


def test_others_are_told_from_the_moment_on_when_they_are_named(
    approval: Approval, receiver: Receiver
) -> None:
    with Receiver() as other, Notifier([], [approval], retry_s=0.02) as notifier:
        approval.changed = notifier.wake
        found = approval.propose(actor="deploy")
        assert found is not None
        notifier.replace(targets([receiver.url]))
        receiver.wait_for(1)
        with pytest.raises(OpenError, match="unsupported scheme"):
            targets([other.url, "nonsense://secret"])
        notifier.replace(targets([receiver.url, other.url]))
        other.wait_for(1)
        notifier.replace(targets([other.url]))
        approval.reject(found.short, actor="ann", reason="no")
        other.wait_for(2)
    assert words(other) == ["waits for approval", "is rejected"]
    assert words(receiver) == ["waits for approval"]


def test_a_title_is_one_line_whatever_a_database_is_called() -> None:
    made = message_of(
        "proposed", "ab12", "x\r\nBcc: eve@example.com\u2028y\x00: the migration", iter(["line"])
    )
    assert made.title.isprintable()
    assert made.title.startswith("x  Bcc: eve@example.com y : the migration")
