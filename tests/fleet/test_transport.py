"""The transport of a fleet: members that dial out, over real sockets, in one process."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

import everlog
from everlog import MigrationError, OpenError, migrations
from everlog.console.cli.fleet import check_committed, follow_runs
from everlog.console.cli.options import Settings
from everlog.fleet.coordinator import FleetCoordinator
from everlog.fleet.hub import Hub
from everlog.fleet.ledger import SOURCE
from everlog.fleet.migrations.v20261130220000_create_members import MEMBERS
from everlog.fleet.protocol import Decision, Phase, Target
from everlog.fleet.selector import Selector
from everlog.fleet.status import FleetStatus, MemberStatus
from everlog.proto import fleet_pb2, fleet_pb2_grpc
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.client.fleet import targets
from everlog.rpc.client.join import Membership
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from tests.migrations.conftest import project
from tests.migrations.project import Project
from tests.migrations.test_online import Airports
from tests.ports import reserved_port

__all__ = ["project"]

START, END = 20260101000000, 20260101000001
WAIT_S = 60.0


class Coordinator:
    """A server whose database `ledger` coordinates a fleet. It can be started again at the same port."""

    def __init__(self, path: Path, port: int, *, hub: Mapping[str, Any] | None = None, **server: Any) -> None:
        """`hub`, `server`: their other arguments."""
        self.path, self.port, self._of_hub, self._of_server = path, port, dict(hub or {}), server
        self._stack = ExitStack()
        self.start()

    def start(self) -> None:
        db = self._stack.enter_context(EmbeddedDatabase(self.path))
        migrations.apply(db, SOURCE)
        self.hub = Hub(db, self.path.with_name("ledger.mark"), **self._of_hub)
        self.hub.start()
        self._stack.callback(self.hub.close)
        server = Server(
            {"ledger": db, "other": db},
            f"127.0.0.1:{self.port}",
            fleets={"ledger": self.hub},
            **self._of_server,
        )
        self._stack.enter_context(server)
        self.db, self.url, self.other = db, server.url("ledger"), server.url("other")

    def stop(self) -> None:
        self._stack.close()


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    with reserved_port() as port:
        one = Coordinator(tmp_path / "ledger", port)
        yield one
        one.stop()


@pytest.fixture
def fleet(coordinator: Coordinator) -> Iterator[Any]:
    with RemoteDatabase(coordinator.url) as db:
        yield db.fleet


@pytest.fixture
def airports(project: Project, tmp_path: Path) -> Airports:
    """The migrations, with a database at the first version."""
    with EmbeddedDatabase(tmp_path / "first") as db:
        return Airports(project, db, 50)


def made(airports: Airports, path: Path) -> Path:
    """Make a database at the first version, with rows."""
    with EmbeddedDatabase(path) as db:
        migrations.apply(db, airports.path, to=START)
        db.load(airports.old, [airports.old_row(number) for number in range(50)])
    return path


def when(fleet: Any, what: Callable[[FleetStatus], Any]) -> FleetStatus:
    """Wait until the status is as expected."""
    until, found = time.monotonic() + WAIT_S, fleet.status()
    while not what(found):
        assert time.monotonic() < until, found
        time.sleep(0.02)
        found = fleet.status()
    assert isinstance(found, FleetStatus)
    return found


def member(found: FleetStatus, name: str) -> MemberStatus | None:
    return next((one for one in found.members if one.report.name == name), None)


def connected(*names: str) -> Callable[[FleetStatus], bool]:
    return lambda found: set(names) <= {one.report.name for one in found.members if one.connected}


def ends(found: FleetStatus) -> dict[bytes, Phase | None]:
    return {seat.target.database: seat.end for seat in found.runs[0].seats}


def joined(coordinator: Coordinator, airports: Airports, path: Path, **how: Any) -> Any:
    how = {"fleet": coordinator.url, "fleet_name": path.name, **how}
    return everlog.open(path, migrations=airports.path, **how)


def test_two_members_are_upgraded_in_unison(
    coordinator: Coordinator, fleet: Any, airports: Airports, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        opened = [
            stack.enter_context(
                joined(coordinator, airports, made(airports, tmp_path / name), fleet_labels={"region": name})
            )
            for name in ("north", "south")
        ]
        assert [db.schema.version for db in opened] == [START, START]
        found = when(fleet, connected("north", "south"))
        north = member(found, "north")
        assert north is not None
        report = north.report
        assert (report.database, report.labels) == (opened[0].uuid, {"region": "north"})
        assert (report.version, report.newest, report.pending) == (START, END, 1)
        assert report.seq == opened[0].head
        with pytest.raises(MigrationError, match="no member is selected by 'name=nowhere'"):
            targets(found, Selector.parse("name=nowhere"))
        run = fleet.start(targets(found), reason="release 2")
        found = when(fleet, lambda found: found.runs and not found.runs[0].open_seats())
        assert found.runs[0].decision is Decision.COMMIT
        assert {seat.end for seat in found.runs[0].seats} == {Phase.CONTRACTED}
        assert [db.schema.version for db in opened] == [END, END]
        assert {row.faa for row in opened[0].scan(airports.new)} == {
            airports.new_row(number).faa for number in range(50)
        }
        reasons = [entry.reason for entry in coordinator.db.past.log(kind="commit")]
        assert "release 2" in reasons
        with pytest.raises(MigrationError, match="is decided: COMMIT"):
            fleet.abort(run.decision_id)
    found = when(fleet, lambda found: not any(one.connected for one in found.members))
    assert len(found.members) == 2


def test_who_watches_sees_the_end_of_a_run_however_late_it_is_recorded(
    coordinator: Coordinator, fleet: Any, airports: Airports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a restart of the coordinator, which has only the outcome of the run."""
    made(airports, tmp_path / "north")
    receive = FleetCoordinator.receive

    def late(self: FleetCoordinator, report: Any) -> Any:
        time.sleep(0.3)  # a watcher reads the status before the report is recorded
        return receive(self, report)

    monkeypatch.setattr(FleetCoordinator, "receive", late)
    with joined(coordinator, airports, tmp_path / "north"):
        run = fleet.start(targets(when(fleet, connected("north"))))
        for found in fleet.watch(interval_s=0.05):
            if found.runs and not found.runs[0].open_seats():
                break
    coordinator.stop()
    coordinator.start()
    assert not fleet.status().runs
    with RemoteDatabase(coordinator.url) as ledger:
        ended = follow_runs(Settings(), ledger, 0.1, run=run.decision_id, until_ended=True)
    assert ended is not None
    check_committed(ended)


def test_a_checked_fleet_starts_only_a_plan_that_was_approved(tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "ledger") as db:
        migrations.apply(db, SOURCE)
        with closing(Hub(db, tmp_path / "ledger.mark", checked=True)) as hub:
            hub.start()
            for digest, why in ((b"", "need approval"), (bytes(32), "was not proposed")):
                with (
                    Server({"ledger": db}, fleets={"ledger": hub}) as server,
                    RemoteDatabase(server.url("ledger")) as ledger,
                    pytest.raises(MigrationError, match=why),
                ):
                    ledger.fleet.start([Target(bytes(16), START, END, b"")], digest=digest)


def test_a_refusal_aborts_the_run_everywhere(
    coordinator: Coordinator, fleet: Any, airports: Airports, tmp_path: Path
) -> None:
    for name in ("north", "south"):
        made(airports, tmp_path / name)
    with EmbeddedDatabase(tmp_path / "south") as db:
        db.put(airports.old, airports.old.model(faa="B", name="Plato"))
    with (
        joined(coordinator, airports, tmp_path / "north") as north,
        joined(coordinator, airports, tmp_path / "south") as south,
    ):
        before = north.admin.hashes(), south.admin.hashes()
        run = fleet.start(targets(when(fleet, connected("north", "south"))))
        found = when(fleet, lambda found: not found.runs[0].open_seats())
        assert found.runs[0].decision is Decision.ABORT
        refused = [seat for seat in found.runs[0].seats if seat.reason]
        assert [seat.target.database for seat in refused] == [south.uuid]
        assert "fails for row" in refused[0].reason
        assert (north.admin.hashes(), south.admin.hashes()) == before
        with pytest.raises(MigrationError, match="is decided: ABORT"):
            fleet.remove(south.uuid, decision_id=run.decision_id)


def test_a_member_that_was_away_receives_the_decision_when_it_is_back(
    coordinator: Coordinator, fleet: Any, airports: Airports, tmp_path: Path
) -> None:
    """Its process ends after its vote; the coordinator is stopped after the decision, and started again."""
    for name in ("north", "south"):
        made(airports, tmp_path / name)
    south = joined(coordinator, airports, tmp_path / "south")
    plan = targets(when(fleet, connected("south")))
    with joined(coordinator, airports, tmp_path / "north") as north:
        plan += targets(when(fleet, connected("north")), Selector.parse("name=north"))
        north_uuid, south_uuid = north.uuid, south.uuid
    when(fleet, lambda found: not connected("north")(found))
    run = fleet.start(plan)
    place = [seat.target.database for seat in run.seats].index(south_uuid)
    when(fleet, lambda found: found.runs[0].seats[place].vote)
    south.close()
    assert fleet.status().runs[0].decision is None
    with joined(coordinator, airports, tmp_path / "north"):
        found = when(fleet, lambda found: ends(found)[north_uuid])
        assert found.runs[0].decision is Decision.COMMIT
        assert not ends(found)[south_uuid]
        assert found.members[0].report.name == "south"  # stragglers first
    coordinator.stop()
    with joined(coordinator, airports, tmp_path / "south") as south:
        assert south.schema.version == START
        south.put(airports.old, airports.old_row(60))  # it serves, and waits
        coordinator.start()
        found = when(fleet, lambda found: found.runs and not found.runs[0].open_seats())
        assert found.runs[0].decision_id == run.decision_id
        assert south.schema.version == END
        assert south.get(airports.new, airports.new_row(60).faa) == airports.new_row(60)


def test_what_is_no_member_is_refused_with_a_sentence(
    coordinator: Coordinator,
    fleet: Any,
    airports: Airports,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = made(airports, tmp_path / "north")
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    said = partial(until_logged, caplog)
    with joined(coordinator, airports, path):
        when(fleet, connected("north"))
        with joined(coordinator, airports, made(airports, tmp_path / "b"), fleet_name="north"):
            said("north is not accepted by its fleet: expected database")
        with pytest.raises(OpenError, match="is a copy of"):
            joined(coordinator, airports, copy)
        with EmbeddedDatabase(copy) as db, closing(Membership(coordinator.url)) as other_process:
            leave = other_process.add(db, "elsewhere", {})
            said("one of them is a copy")
            twin = when(fleet, lambda found: found.members[0].alarm)
            assert [one.report.name for one in twin.members] == ["north"]
            leave()
        with joined(coordinator, airports, made(airports, tmp_path / "c"), fleet_name=""):
            when(fleet, lambda found: len(found.members) == 2)  # an empty name is that of the machine
        with pytest.raises(MigrationError, match="is connected: end its process first"):
            fleet.remove(fleet.status().members[0].report.database)
    with (
        RemoteDatabase(coordinator.other) as other,
        pytest.raises(MigrationError, match="other is not the ledger of a fleet"),
    ):
        other.fleet.status()
    with pytest.raises(OpenError, match="serve --join"):
        everlog.open(coordinator.url, fleet=coordinator.url)
    with pytest.raises(OpenError, match="found read_only"):
        everlog.open(path, read_only=True, fleet=coordinator.url)
    with pytest.raises(OpenError, match="HOST:PORT"):
        everlog.open(path, fleet="nowhere")


def test_a_restored_or_forked_member_is_named_and_receives_no_orders(
    coordinator: Coordinator, fleet: Any, airports: Airports, tmp_path: Path
) -> None:
    path, old, fork = made(airports, tmp_path / "north"), tmp_path / "old", tmp_path / "fork"
    shutil.copytree(path, old)
    with EmbeddedDatabase(path) as db:
        db.put(airports.old, airports.old_row(70))
    with joined(coordinator, airports, path):
        when(fleet, connected("north"))
    shutil.copytree(old, fork)
    with EmbeddedDatabase(fork) as db:
        for number in range(80, 90):
            db.put(airports.old, airports.old_row(number))
    for copy, why in ((old, "its newest record is"), (fork, "has checksum")):
        with joined(coordinator, airports, copy, fleet_name="north"):
            found = when(fleet, partial(alarmed, why))
            assert "restored or forked" in found.members[0].alarm
            with pytest.raises(MigrationError, match="north cannot be upgraded"):
                targets(found)
        when(fleet, lambda found: not found.members[0].connected)
    with joined(coordinator, airports, path):
        when(fleet, lambda found: found.members[0].connected and not found.members[0].alarm)
    when(fleet, lambda found: not found.members[0].connected)
    with joined(coordinator, airports, fork, fleet_name="north"):
        found = when(fleet, partial(alarmed, "has checksum"))
        assert fleet.remove(found.members[0].report.database) is None  # the operator accepts it
        when(fleet, lambda found: connected("north")(found) and not found.members[0].alarm)


def test_the_registry_is_in_the_ledger(
    coordinator: Coordinator, fleet: Any, airports: Airports, tmp_path: Path
) -> None:
    with joined(coordinator, airports, made(airports, tmp_path / "north"), fleet_labels={"region": "eu"}):
        when(fleet, connected("north"))
    when(fleet, lambda found: not connected("north")(found))
    coordinator.stop()
    coordinator.start()
    found = when(fleet, lambda found: found.members)
    assert (found.members[0].report.name, found.members[0].report.labels) == ("north", {"region": "eu"})
    assert not found.members[0].connected
    versions = list(coordinator.db.history(MEMBERS, found.members[0].report.database))
    assert 1 <= len(versions) <= 4  # it came and went: positions alone are not written


def test_watch_yields_each_change(
    coordinator: Coordinator, fleet: Any, airports: Airports, tmp_path: Path
) -> None:
    watching = fleet.watch(interval_s=0.1)
    assert next(watching).members == []
    with joined(coordinator, airports, made(airports, tmp_path / "north")):
        assert [one.report.name for one in next(watching).members] == ["north"]
    assert not next(found for found in watching if not found.members[0].connected).runs
    watching.close()


@pytest.mark.parametrize("method", ["Join", "Watch"])
def test_a_stream_ends_when_its_token_is_revoked(coordinator: Coordinator, method: str) -> None:
    made, ended = coordinator.db.access.create_token("ann", ("owner",)), threading.Event()
    about = (("authorization", f"Bearer {made.text}"),)
    with grpc.insecure_channel(coordinator.url.split("/")[2]) as channel:
        stub: Any = fleet_pb2_grpc.FleetStub(channel)

        def requests() -> Iterator[fleet_pb2.JoinRequest]:
            yield fleet_pb2.JoinRequest(database="ledger", process=b"1")
            ended.wait(WAIT_S)

        if method == "Join":
            call = stub.Join(requests(), metadata=about, timeout=WAIT_S)
        else:
            call = stub.Watch(fleet_pb2.WatchRequest(database="ledger"), metadata=about, timeout=WAIT_S)
            next(call)
        coordinator.db.access.revoke_token(made.token.id)
        with pytest.raises(grpc.RpcError) as error:
            list(call)
        ended.set()
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert str(error.value.details()).startswith("this token has ended")


def alarmed(why: str, found: FleetStatus) -> bool:
    return found.members[0].connected and why in found.members[0].alarm


def until_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    until = time.monotonic() + WAIT_S
    while text not in caplog.text:
        assert time.monotonic() < until, caplog.text
        time.sleep(0.02)
