"""The ledger of a coordinator, in a database on disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import everlog
from everlog import ClosedError, MigrationError
from everlog.audit.restore import restore
from everlog.feed import cursor
from everlog.fleet.coordinator import FleetCoordinator
from everlog.fleet.ledger import SOURCE, LedgerStore
from everlog.fleet.migrations.v20261130120000_create_ledger import RUNS, SEATS
from everlog.fleet.protocol import Decision, Phase, Report, Target, Verb, Vote
from everlog.fleet.status import ENDED_MAX
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server

RUN, NEXT = (bytes([number]) * 16 for number in (1, 2))
SHOPS = tuple(bytes([number]) * 16 for number in (11, 12, 13))
PLAN = tuple(Target(shop, 20260101000000, 20260101000001, b"\x0f" * 32, hold=True) for shop in SHOPS)
DEADLINE_NS = 5_000_000_000


def opened(path: Path) -> EmbeddedDatabase:
    db = everlog.open(f"file:{path}", migrations=SOURCE)
    assert isinstance(db, EmbeddedDatabase)
    return db


@pytest.fixture
def db(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    with opened(tmp_path / "ledger") as db:
        yield db
        if not db.core.closed:
            assert list(db.admin.check()) == []


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "ledger.mark"


@pytest.fixture
def coordinator(db: EmbeddedDatabase, mark: Path) -> FleetCoordinator:
    coordinator = FleetCoordinator(LedgerStore(db, mark))
    assert coordinator.take_over() == ()
    return coordinator


def start(coordinator: FleetCoordinator, decision_id: bytes = RUN) -> None:
    orders = coordinator.start(decision_id, PLAN, deadline_ns=DEADLINE_NS, actor="ann")
    assert [order.verb for order in orders] == [Verb.PREPARE] * 3


def report(
    coordinator: FleetCoordinator, shop: bytes, phase: Phase, refusal: str = "", *, fence: int | None = None
) -> list[Verb]:
    fence = coordinator.epoch if fence is None else fence
    return [order.verb for order in coordinator.receive(Report(shop, RUN, fence, phase, refusal))]


def test_each_state_of_a_run_is_read_again_by_a_takeover(
    db: EmbeddedDatabase, mark: Path, coordinator: FleetCoordinator
) -> None:
    def taken_over(current: FleetCoordinator) -> FleetCoordinator:
        after = FleetCoordinator(LedgerStore(db, mark))
        after.take_over()
        assert (after.runs, after.epoch) == (current.runs, current.epoch + 1)
        return after

    start(coordinator)
    coordinator = taken_over(coordinator)
    assert report(coordinator, SHOPS[0], Phase.PREPARED) == []
    coordinator = taken_over(coordinator)
    assert report(coordinator, SHOPS[1], Phase.PREPARED) == []
    assert coordinator.remove(RUN, SHOPS[2], actor="ann") == coordinator.retry()
    coordinator = taken_over(coordinator)
    run = coordinator.run(RUN)
    assert run is not None
    assert (run.decision, [seat.vote for seat in run.seats]) == (
        Decision.COMMIT,
        [Vote.PREPARED, Vote.PREPARED, None],
    )
    assert [order.verb for order in coordinator.retry()] == [Verb.COMMIT, Verb.COMMIT, Verb.ABORT]
    for shop, phase in zip(SHOPS, (Phase.COMMITTED, Phase.COMMITTED, Phase.ABORTED), strict=True):
        report(coordinator, shop, phase)
        coordinator = taken_over(coordinator)
    assert [order.verb for order in coordinator.contract(RUN)] == [Verb.CONTRACT, Verb.CONTRACT]
    coordinator = taken_over(coordinator)
    for shop in SHOPS[:2]:
        report(coordinator, shop, Phase.CONTRACTED)
    assert coordinator.retry() == ()
    coordinator = FleetCoordinator(LedgerStore(db, mark))
    coordinator.take_over()
    run = coordinator.run(RUN)
    assert run is not None
    assert [seat.end for seat in run.seats] == [Phase.CONTRACTED, Phase.CONTRACTED, Phase.ABORTED]
    assert (coordinator.runs, coordinator.run(NEXT)) == ((), None)
    assert (db.count(RUNS), db.count(SEATS)) == (1, 3)
    with pytest.raises(MigrationError, match=r"run 01010101-0101-.* has ended; start the run with a new id"):
        coordinator.start(RUN, PLAN, deadline_ns=DEADLINE_NS)
    assert coordinator.epoch  # a refusal: it coordinates as before
    (ended,) = coordinator.ended()
    assert (ended.decision_id, ended.decision, ended.outcome) == (RUN, Decision.COMMIT, "contracted")
    assert (ended.members, ended.upgraded, ended.actor, ended.why) == (2, 2, "ann", "")
    assert 0 < ended.started_ns <= ended.decided_ns <= ended.ended_ns


def test_memory_and_status_have_the_newest_runs_of_all_that_have_ended(
    coordinator: FleetCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(number: int, reason: str = "") -> bytes:
        run = bytes([number]) * 16
        coordinator.start(run, PLAN, deadline_ns=DEADLINE_NS, actor="ann")
        coordinator.abort(run, actor="bob", reason=reason)
        for shop in SHOPS:
            coordinator.receive(Report(shop, run, coordinator.epoch, Phase.ABORTED))
        return run

    runs = [ended(number, f"reason {number}") for number in range(1, ENDED_MAX + 3)]
    assert [run.decision_id for run in coordinator.runs] == runs[-ENDED_MAX:]
    assert [run.decision_id for run in coordinator.ended()] == runs[-ENDED_MAX:]
    assert {run.outcome for run in coordinator.ended()} == {"aborted"}
    assert [run.why for run in coordinator.ended()[-2:]] == ["reason 21", "reason 22"]
    assert coordinator.run(runs[0]) is not None  # in the ledger
    monkeypatch.setattr("everlog.fleet.coordinator.SEATS_MAX", 2 * len(PLAN))
    runs.append(ended(100))
    assert [run.decision_id for run in coordinator.runs] == runs[-2:]
    monkeypatch.setattr("everlog.fleet.coordinator.SEATS_MAX", 1)
    runs.append(ended(101))
    assert [run.decision_id for run in coordinator.runs] == runs[-1:]


def test_the_log_has_who_did_what_and_why(db: EmbeddedDatabase, coordinator: FleetCoordinator) -> None:
    start(coordinator)
    report(coordinator, SHOPS[0], Phase.PREPARED)
    assert coordinator.expire(now_ns=DEADLINE_NS - 1) == ()
    assert len(coordinator.expire(now_ns=DEADLINE_NS)) == 3
    found = [(entry.actor, entry.reason) for entry in db.past.log(kind="commit")]
    run, shop = cursor.name(RUN), cursor.name(SHOPS[0])
    assert found == [
        ("coordinator", "takeover"),
        ("ann", f"start run {run}"),
        ("coordinator", f"database {shop} reports PREPARED in run {run}"),
        ("coordinator", f"the deadline 1970-01-01T00:00:05+00:00 of run {run} has passed"),
    ]


def test_a_coordinator_that_was_replaced_writes_nothing(
    db: EmbeddedDatabase, mark: Path, coordinator: FleetCoordinator
) -> None:
    start(coordinator)
    FleetCoordinator(LedgerStore(db, mark)).take_over()
    head = db.head
    with pytest.raises(MigrationError, match="this coordinator has epoch 2, but the ledger has epoch 3"):
        report(coordinator, SHOPS[0], Phase.PREPARED)
    assert (db.head, coordinator.epoch, coordinator.retry()) == (head, 0, ())
    with pytest.raises(MigrationError, match=r"does not coordinate the fleet .*; nothing was done"):
        start(coordinator, NEXT)
    coordinator.take_over()
    report(coordinator, SHOPS[0], Phase.PREPARED)
    assert db.head == head + 2


def test_the_fence_of_a_report_shows_that_a_coordinator_was_replaced(coordinator: FleetCoordinator) -> None:
    start(coordinator)
    assert report(coordinator, SHOPS[0], Phase.PREPARED, fence=9) == []
    assert coordinator.epoch == 0


def test_what_is_refused_changes_nothing(db: EmbeddedDatabase, coordinator: FleetCoordinator) -> None:
    start(coordinator)
    head, epoch = db.head, coordinator.epoch
    with pytest.raises(MigrationError, match=r"run 01010101-0101-.* is undecided; .*; nothing was done"):
        coordinator.start(NEXT, PLAN, deadline_ns=DEADLINE_NS)
    with pytest.raises(MigrationError, match=r"reports COMMITTED .* which is not committed in the ledger"):
        report(coordinator, SHOPS[0], Phase.COMMITTED)
    with pytest.raises(MigrationError, match="has no member"):
        coordinator.remove(RUN, NEXT)
    assert (db.head, coordinator.epoch) == (head, epoch)


def test_a_commit_that_fails_drops_the_memory(db: EmbeddedDatabase, coordinator: FleetCoordinator) -> None:
    start(coordinator)
    db.close()
    with pytest.raises(ClosedError):
        report(coordinator, SHOPS[0], Phase.PREPARED)
    assert (coordinator.epoch, coordinator.retry()) == (0, ())


def test_a_mark_that_is_behind_the_log_is_accepted(
    db: EmbeddedDatabase, mark: Path, coordinator: FleetCoordinator
) -> None:
    """The process was killed between the commit and the mark."""
    before = mark.read_bytes()
    start(coordinator)
    mark.write_bytes(before)
    coordinator.take_over()
    assert coordinator.run(RUN) is not None


def test_a_ledger_may_be_on_a_server(tmp_path: Path, mark: Path) -> None:
    with (
        opened(tmp_path / "ledger") as embedded,
        Server({"ledger": embedded}) as server,
        RemoteDatabase(server.url("ledger")) as db,
    ):
        coordinator = FleetCoordinator(LedgerStore(db, mark))
        coordinator.take_over()
        start(coordinator)
        report(coordinator, SHOPS[0], Phase.PREPARED)
        other = FleetCoordinator(LedgerStore(db, mark))
        other.take_over()
        assert other.runs == coordinator.runs
        with pytest.raises(MigrationError, match="another one took over meanwhile"):
            report(coordinator, SHOPS[1], Phase.PREPARED)
        at = db.cursor()
        at.seq += 1
        mark.write_text(f'{{"cursor": "{cursor.show(at)}"}}', encoding="utf-8")
        with pytest.raises(MigrationError, match=REFUSED + "the cursor is ahead of the log"):
            other.take_over()


REFUSED = "the ledger may lack decisions of its fleet, and nothing was done: "


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("restored", "the cursor is ahead of the log"),
        ("restored and changed", "the cursor is of another history"),
        ("forked", "the cursor is of database"),
        ("forked, without its mark", "it is a fork: its epoch was written in database"),
        ("without its mark", "it has epoch 2, but there is no mark"),
        ("with an invalid mark", "expected a cursor as uuid:seq:checksum, or a seq, found 'x'"),
    ],
)
def test_a_ledger_that_may_lack_decisions_is_refused(
    mark: Path, db: EmbeddedDatabase, coordinator: FleetCoordinator, *, tmp_path: Path, case: str, why: str
) -> None:
    start(coordinator)
    db.archive.backup(str(tmp_path / "backup"))
    epoch = coordinator.epoch
    for shop in SHOPS:
        report(coordinator, shop, Phase.PREPARED)
    db.close()
    restore(tmp_path / "backup", tmp_path / "other", fork=case.startswith("forked"))
    if case.endswith("without its mark"):
        mark.unlink()
    if case == "with an invalid mark":
        mark.write_text('{"cursor": "x"}', encoding="utf-8")
    with opened(tmp_path / "other") as other:
        if case == "restored and changed":
            copy = shutil.copy(mark, tmp_path / "other.mark")
            mark.unlink()
            changed = FleetCoordinator(LedgerStore(other, mark))
            changed.take_over(accept=True)
            epoch = changed.epoch
            for shop in SHOPS:
                report(changed, shop, Phase.PREPARED)
            shutil.copy(copy, mark)
        head = other.head
        coordinator = FleetCoordinator(LedgerStore(other, mark))
        for _ in range(2):
            with pytest.raises(MigrationError, match=REFUSED + why):
                coordinator.take_over()
        assert (other.head, coordinator.epoch) == (head, 0)
        coordinator.take_over(accept=True)
        assert coordinator.epoch == epoch + 1
        coordinator.take_over()
        assert coordinator.epoch == epoch + 2
