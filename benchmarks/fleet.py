"""fleet: an upgrade of many databases in unison, each with 1,000 rows, in four processes.

fleet          from the start to the decision: every member rewrites its rows and votes
fleet_switch   from the decision until the last member has switched
fleet_abort    from an abort, when all members but one that is away have voted, until these have dropped what
               they built
fleet_writer   the duration of commits to members of one process before the decision; `fleet_idle`: before
               the start
fleet_blocked  the longest of these commits between the decision and the end

fleet_status   the status of a fleet of 2,000 members, simulated: real streams, over which each of them
               reports once a second
member_reports these reports, by the processor time of the coordinator, with that of the status

The coordinator is a process of its own, and its memory is that of the lines. Times are those at which an
operator sees them: the status is read each 50 ms.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any

from benchmarks.helper import Helper, Starter
from benchmarks.measure import Measure, Run, paced, peak_rss_mb
from benchmarks.migrate import FIRST, message
from benchmarks.migrate import written as migrations_of
from benchmarks.rows import row, rows

PROCESSES, ROWS = 4, 1_000
COMMITS_PER_S, IDLE_S = 100, 5
SIMULATORS, STREAMS, WATCHED_S = 4, 10, 20  # streams of each, and seconds
POLL_S, TIMEOUT_S = 0.05, 300


def everlog(run: Run) -> list[Measure]:
    from everlog.rpc.client.database import RemoteDatabase
    from everlog.rpc.client.fleet import targets

    source = migrations_of(run.folder, "transform")
    count = max(run.n, 2 * PROCESSES)
    names = [f"shop-{number:03}" for number in range(count)]
    with ExitStack() as stack:
        coordinator = stack.enter_context(
            Helper("benchmarks.fleet:coordinator", path=str(run.folder / "ledger"))
        )
        url = coordinator.hear()
        members = [
            stack.enter_context(
                Helper(
                    "benchmarks.fleet:members",
                    folder=str(run.folder),
                    names=names[number::PROCESSES],
                    source=str(source),
                    url=url,
                )
            )
            for number in range(PROCESSES)
        ]
        for one in members:
            assert one.hear() == "open"
        fleet = stack.enter_context(RemoteDatabase(url)).fleet
        found = wait(fleet, lambda found: connected(found) == count)
        writer = members[0]
        writer.ask("took")
        sleep(IDLE_S * min(1, run.n / 100))
        idle = writer.ask("took")

        writer.ask("close")
        wait(fleet, lambda found: connected(found) == count - 1)
        first = fleet.start(targets(found)).decision_id
        wait(fleet, lambda found: sum(seat.vote is not None for seat in of(found, first).seats) == count - 1)
        begin = perf_counter()
        fleet.abort(first)
        wait(fleet, lambda found: len(of(found, first).open_seats()) == 1)
        aborted = perf_counter() - begin
        writer.ask("open")
        found = wait(fleet, lambda found: not of(found, first).open_seats() and connected(found) == count)

        writer.ask("took")
        begin = perf_counter()
        second = fleet.start(targets(found)).decision_id
        wait(fleet, lambda found: of(found, second).decision is not None)
        decided = perf_counter()
        busy = writer.ask("took")
        found = wait(fleet, lambda found: not of(found, second).open_seats())
        ended = perf_counter()
        blocked = writer.ask("took")
        assert {one.report.version for one in found.members} == {FIRST + 1}
        rss_mb = coordinator.ask("rss")
    return [
        run.measure(count, decided - begin, rss_mb=rss_mb),
        run.measure(count, ended - decided, bench="fleet_switch", rss_mb=rss_mb),
        run.measure(count - 1, aborted, bench="fleet_abort", rss_mb=rss_mb),
        run.measure(len(busy), sum(busy) / 1e9, busy, bench="fleet_writer", rss_mb=rss_mb),
        run.measure(len(idle), sum(idle) / 1e9, idle, bench="fleet_idle", rss_mb=rss_mb),
        run.measure(1, max(blocked) / 1e9, bench="fleet_blocked", rss_mb=rss_mb),
    ]


def many(run: Run) -> list[Measure]:
    """Many members that report every second."""
    from everlog.rpc.client.database import RemoteDatabase

    count = max(run.n, STREAMS * SIMULATORS)
    with ExitStack() as stack:
        one = stack.enter_context(Helper("benchmarks.fleet:coordinator", path=str(run.folder / "ledger")))
        url = one.hear()
        for number in range(SIMULATORS):
            each = count // SIMULATORS
            stack.enter_context(
                Helper("benchmarks.fleet:simulated", url=url, first=number * each, count=each)
            ).hear()
        fleet = stack.enter_context(RemoteDatabase(url)).fleet
        wait(fleet, lambda found: connected(found) == count)
        before, reports, began = one.ask("cpu"), -seqs(fleet.status()), perf_counter()
        took, found = array("Q"), fleet.status()
        while perf_counter() - began < WATCHED_S * min(1, run.n / 1_000):
            start = perf_counter()
            found = fleet.status()
            took.append(int(1e9 * (perf_counter() - start)))
            sleep(POLL_S)
        cpu_s, reports = one.ask("cpu") - before, reports + seqs(found)
        rss_mb = one.ask("rss")
    return [
        run.measure(len(took), sum(took) / 1e9, took, rss_mb=rss_mb),
        run.measure(max(1, reports), cpu_s, bench="member_reports", rss_mb=rss_mb),
    ]


def seqs(found: Any) -> int:
    """Return the sum of the positions, which rise by one with each report."""
    return sum(one.report.seq for one in found.members)


def connected(found: Any) -> int:
    return sum(one.connected for one in found.members)


def of(found: Any, decision_id: bytes) -> Any:
    """Return one run of a status."""
    return next(one for one in found.runs if one.decision_id == decision_id)


def wait(fleet: Any, what: Any) -> Any:
    """Return the first status that is as expected."""
    until = perf_counter() + TIMEOUT_S
    while not what(found := fleet.status()):
        assert perf_counter() < until, f"the fleet was not ready after {TIMEOUT_S} s: {found}"
        sleep(POLL_S)
    return found


def coordinator(starter: Starter, path: str) -> None:
    """Helper: the server with the ledger."""
    from everlog import migrations
    from everlog.fleet.hub import Hub
    from everlog.fleet.ledger import SOURCE
    from everlog.rpc.embedded import EmbeddedDatabase
    from everlog.rpc.server.server import Server

    with EmbeddedDatabase(path) as db:
        migrations.apply(db, SOURCE)
        hub = Hub(db, Path(path).with_suffix(".mark"))
        hub.start()
        with Server({"ledger": db}, fleets={"ledger": hub}) as server:
            starter.say(server.url("ledger"))
            while (command := starter.hear()) is not None:
                starter.say(process_time() if command == "cpu" else peak_rss_mb())
        hub.close()


def simulated(starter: Starter, url: str, first: int, count: int) -> None:
    """Helper: members without databases, over streams that are those of processes. Each reports every
    second."""
    import grpc

    from everlog.proto import fleet_pb2 as pb
    from everlog.proto import fleet_pb2_grpc, log_pb2

    ended = threading.Event()

    def requests(numbers: range) -> Iterator[pb.JoinRequest]:
        yield pb.JoinRequest(database="ledger", process=numbers[0].to_bytes(16))
        reports = [
            pb.MemberReport(
                name=f"shop-{number}",
                labels={"region": "eu", "tenant": str(number)},
                at=log_pb2.Cursor(database=(number + 1).to_bytes(16), seq=1, checksum=number),
                version=FIRST,
                newest=FIRST,
                folder_digest=bytes(32),
                release="0.1",
            )
            for number in numbers
        ]
        while not ended.wait(1):
            for one in reports:
                one.at.seq += 1
            yield pb.JoinRequest(reports=reports)

    with ExitStack() as stack:
        for number in range(STREAMS):
            numbers = range(first + number * count // STREAMS, first + (number + 1) * count // STREAMS)
            # A connection of its own each.
            channel = stack.enter_context(
                grpc.insecure_channel(url.split("/")[2], options=[("grpc.use_local_subchannel_pool", 1)])
            )
            call = fleet_pb2_grpc.FleetStub(channel).Join(requests(numbers))
            threading.Thread(target=drain, args=(call,), daemon=True).start()
        starter.say("connected")
        while starter.hear() is not None:
            pass
        ended.set()


def drain(call: Any) -> None:
    """Read what the coordinator sends, until the stream ends."""
    with suppress(Exception):  # grpc's: it has ended
        for _ in call:
            pass


def members(starter: Starter, folder: str, names: list[str], source: str, url: str) -> None:
    """Helper: some members, and a writer to all but the last of them.

    Its commands: "took": say the durations of the commits since it was last asked; "close", "open": the last
    member.
    """
    import everlog
    from everlog import migrations
    from everlog.rpc.embedded import EmbeddedDatabase

    def joined(name: str) -> Any:
        return everlog.open(Path(folder, name), migrations=source, fleet=url, fleet_name=name)

    old, new = (migration.tables[0] for migration in migrations.load(Path(source)))
    for name in names:
        with EmbeddedDatabase(Path(folder, name)) as db:
            migrations.apply(db, source, to=FIRST)
            db.load(old, (message(old, item) for item in rows(ROWS)))
    took: array[int] = array("Q")
    closed = threading.Event()
    with ExitStack() as stack:
        written = [stack.enter_context(joined(name)) for name in names[:-1]]
        last = joined(names[-1])

        def write(number: int) -> None:
            db, item = written[number % len(written)], row(1 + number % ROWS)
            try:
                db.put(old, message(old, item))
            except everlog.SchemaError:  # it has switched: so do clients
                db.put(new, message(new, item))

        def run() -> None:
            number = 0
            while not closed.is_set():
                took.extend(paced(range(number, number + 10), write, COMMITS_PER_S)[1])
                number += 10

        thread = threading.Thread(target=run)
        thread.start()
        starter.say("open")
        while (command := starter.hear()) is not None:
            if command == "close":
                last.close()
            elif command == "open":
                last = joined(names[-1])
            said = len(took)
            starter.say(list(took[:said]))
            del took[:said]
        closed.set()
        thread.join()
        last.close()
