"""Two decisions about one migration at the same time: one is recorded, and the other caller gets an error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from everlog import MigrationError, migrations
from everlog.migrations import Approval, in_progress
from everlog.migrations.lock import ask_to_end
from everlog.migrations.proposal import ProposalState
from everlog.migrations.status import State
from everlog.proto import log_pb2
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.database import Database
from everlog.store.progress import Progress
from everlog.store.tx.transaction import Metadata
from tests.migrations.approving import proposed
from tests.migrations.project import Project
from tests.migrations.test_online import Airports

LONG_S = 60


class Gate:
    """A gate at which a thread waits. `here` is set when the thread has arrived."""

    def __init__(self) -> None:
        self.here, self._open = threading.Event(), threading.Event()

    def __call__(self, *_: Any, **__: Any) -> None:
        self.here.set()
        assert self._open.wait(LONG_S)

    def arrived(self) -> None:
        assert self.here.wait(LONG_S)

    def open(self) -> None:
        self._open.set()


def before_a_call(thing: Any, name: str, gate: Callable[[], None]) -> None:
    """Make the next call of a method wait at a gate, once."""
    call = getattr(thing, name)

    def called(*args: Any, **kwargs: Any) -> Any:
        setattr(thing, name, call)
        gate()
        return call(*args, **kwargs)

    setattr(thing, name, called)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def ends(*calls: Future[Any]) -> list[str]:
    """Return the end of each thread: empty, or the text of the refusal."""
    found = []
    for one in calls:
        error = one.exception(LONG_S)
        assert error is None or isinstance(error, MigrationError), error
        found.append(str(error or ""))
    return found


def steps(db: Database) -> list[str]:
    return [log_pb2.Migration.Step.Name(one.migration.step) for one in db.migration_records()][1:]


def after_a_call(thing: Any, name: str, event: threading.Event) -> None:
    """Set an event after a call of a method."""
    call = getattr(thing, name)

    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        finally:
            event.set()

    setattr(thing, name, called)


@pytest.mark.parametrize("where", ["while it plans", "between approval and run"])
def test_a_rejection_that_comes_while_it_is_approved_is_refused(
    approval: Approval, pool: ThreadPoolExecutor, where: str
) -> None:
    digest, gate, looked = proposed(approval).short, Gate(), threading.Event()
    other = Approval(approval.db, approval.source)  # like another server in this process
    after_a_call(other, "_check_decidable", looked)
    approved: Callable[..., None] | None = gate
    if where == "while it plans":
        before_a_call(approval, "_draft", gate)
        approved = None
    by = {"actor": "ann", "reason": "yes", "approved": approved}
    approving = pool.submit(approval.approve_and_run, digest, **by)  # type: ignore[arg-type]
    gate.arrived()
    rejecting = pool.submit(other.reject, digest, actor="bob", reason="no")
    assert looked.wait(LONG_S)
    gate.open()
    won, lost = ends(approving, rejecting)
    assert (won, "is already decided: finished" in lost) == ("", True), (won, lost)
    assert "everlog propose" not in lost  # nothing is pending
    assert steps(approval.db) == ["PROPOSED", "APPROVED", "FINISHED"]


def test_an_approval_that_comes_while_it_is_rejected_is_refused_and_nothing_is_applied(
    approval: Approval, pool: ThreadPoolExecutor
) -> None:
    digest, gate, looked = proposed(approval).short, Gate(), threading.Event()
    other = Approval(approval.db, approval.source)
    after_a_call(other, "_check_decidable", looked)
    before_a_call(approval, "_decide", gate)
    rejecting = pool.submit(approval.reject, digest, actor="bob", reason="no")
    gate.arrived()
    approving = pool.submit(other.approve_and_run, digest, actor="ann", reason="yes")
    assert looked.wait(LONG_S)
    gate.open()
    lost, won = ends(approving, rejecting)
    assert (won, "is already decided: rejected" in lost) == ("", True), (won, lost)
    assert steps(approval.db) == ["PROPOSED", "REJECTED"]
    with pytest.raises(MigrationError, match=r"was rejected by bob in commit 4 \(no\)"):
        migrations.apply(approval.db, approval.source)


def test_a_decision_about_what_has_become_another_meanwhile_is_not_recorded(approval: Approval) -> None:
    seen = proposed(approval)
    approval.reject(seen.short, actor="bob", reason="no")
    head = approval.db.head
    with pytest.raises(MigrationError, match="is now rejected, since commit 4 by bob"):
        approval._decide(seen, log_pb2.Migration(step=log_pb2.Migration.APPROVED), "ann", "yes")  # noqa: SLF001  after the lock
    assert approval.db.head == head


def test_of_two_approvals_at_two_servers_one_wins(approval: Approval, pool: ThreadPoolExecutor) -> None:
    digest, gate = proposed(approval).short, Gate()
    other, served = Approval(approval.db, approval.source), {"x": approval.db}
    looked, by = threading.Event(), {"actor": "ann", "reason": "yes"}
    with (
        Server(served, approvals={"x": approval}) as one,
        Server(served, approvals={"x": other}) as two,
        RemoteDatabase(one.url("x")) as ann,
        RemoteDatabase(two.url("x")) as bob,
    ):
        before_a_call(approval, "_draft", gate)
        after_a_call(other, "_check_decidable", looked)
        first = pool.submit(ann.migrations.approve, digest, **by)  # type: ignore[arg-type]
        gate.arrived()
        second = pool.submit(bob.migrations.reject, digest, actor="bob", reason="no")
        assert looked.wait(LONG_S)
        gate.open()
        won, lost = ends(first, second)
    assert (won, "is already decided: finished" in lost) == ("", True)
    assert approval.proposals()[-1].state is ProposalState.FINISHED


@pytest.mark.parametrize("rival", ["complete", "rollback", "give_up"])
def test_two_who_end_the_time_of_two_versions_do_not_both(
    project: Project, db: Database, pool: ThreadPoolExecutor, rival: str
) -> None:
    airports, gate = Airports(project, db, rows=3), Gate()
    migrations.apply(db, airports.path, hold=True)
    before_a_call(db, "apply_migration", gate)
    first: Future[Any]
    second: Future[Any]
    if rival == "give_up":
        first = pool.submit(in_progress.give_up, db, Metadata("ann"))
    else:
        first = pool.submit(migrations.complete, db, actor="ann")
    gate.arrived()
    if rival == "rollback":
        second = pool.submit(migrations.rollback, db, source=airports.path, actor="bob", wait_s=0)
        _, lost = ends(second, second)
        gate.open()
        assert ends(first) == [""]
    elif rival == "give_up":
        second = pool.submit(migrations.complete, db, actor="bob")
        assert ends(second) == [""]
        gate.open()
        (lost,) = ends(first)
    else:
        gate.open()
        second = pool.submit(migrations.complete, db, actor="bob")
        _, lost = ends(first, second)
    assert lost
    assert airports.steps()[-1] == "FINISHED"
    assert airports.steps().count("FINISHED") == 2
    assert list(db.admin.check()) == []


def test_a_cancellation_that_comes_before_the_last_record_wins(
    project: Project, db: Database, pool: ThreadPoolExecutor
) -> None:
    airports, gate = Airports(project, db, rows=50), Gate()
    before, hashes = db.schema.version, db.admin.hashes()

    def arrived(at: Progress) -> None:
        if "rewrite" in at.step and not gate.here.is_set():
            gate()

    applying = pool.submit(migrations.apply, db, airports.path, actor="ann", progress=arrived)
    gate.arrived()
    with pytest.raises(
        MigrationError, match="is being migrated by ann"
    ):  # it was asked to end, but has not ended yet
        migrations.cancel(db, actor="cy", reason="it is slow", wait_s=0)
    gate.open()
    (said,) = ends(applying)
    assert "it was cancelled by cy (it is slow)" in said
    assert (db.schema.version, db.admin.hashes()) == (before, hashes)
    end = db.migration_records()[-1]
    assert (end.migration.step, end.actor) == (log_pb2.Migration.ROLLED_BACK, "cy")
    with pytest.raises(MigrationError, match="no migration is in progress"):
        migrations.cancel(db, actor="cy", reason="again")
    migrations.apply(db, airports.path)
    assert list(db.admin.check()) == []


def test_a_cancellation_that_comes_after_the_last_record_is_refused(
    project: Project, db: Database, pool: ThreadPoolExecutor
) -> None:
    airports, gate = Airports(project, db, rows=3), Gate()
    applying = pool.submit(migrations.apply, db, airports.path, actor="ann", applied=gate)
    gate.arrived()
    assert ask_to_end(db.uuid, Metadata("cy", "late")) is not None
    gate.open()
    assert ends(applying) == [""]
    with pytest.raises(MigrationError, match="no migration is in progress"):
        migrations.cancel(db, actor="cy", reason="late")
    assert [info.state for info in migrations.status(db, airports.path)] == [State.APPLIED] * 2


def test_a_way_back_can_be_cancelled_and_the_migration_stays(
    project: Project, db: Database, pool: ThreadPoolExecutor
) -> None:
    airports, gate = Airports(project, db, rows=50), Gate()
    migrations.apply(db, airports.path)

    def arrived(at: Progress) -> None:
        if "rewrite" in at.step and not gate.here.is_set():
            gate()

    back = pool.submit(migrations.rollback, db, source=airports.path, progress=arrived)
    gate.arrived()
    holder = ask_to_end(db.uuid, Metadata("cy", "keep it"))
    gate.open()
    assert holder is not None
    assert "it was cancelled by cy (keep it)" in ends(back)[0]
    assert [info.state for info in migrations.status(db, airports.path)] == [State.APPLIED] * 2
    assert list(db.admin.check()) == []


def test_a_migration_that_stopped_on_its_way_is_cancelled_where_it_is(
    project: Project, tmp_path: Path
) -> None:
    with EmbeddedDatabase(tmp_path / "stopped") as db:
        airports = Airports(project, db, rows=50)

        def stop(at: Progress) -> None:
            if "rewrite" in at.step:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            migrations.apply(db, airports.path, progress=stop)
    with EmbeddedDatabase(tmp_path / "stopped") as db:
        done = migrations.cancel(db, actor="cy", reason="not today")
        assert (done.version, done.seq, done.state) == (airports_version(project), db.head, State.PENDING)
        assert [info.state for info in migrations.status(db, airports.path)] == [State.APPLIED, State.PENDING]
        assert list(db.admin.check()) == []


def airports_version(project: Project) -> int:
    return project.load()[-1].version
