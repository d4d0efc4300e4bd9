"""The demo of a fleet in five steps: `make demo-fleet`.

All its files are in build/demo-fleet, and stay there.
"""

import argparse
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import everlog
from everlog.fleet.protocol import Decision, Run
from everlog.fleet.status import FleetStatus, outcome
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.client.fleet import targets
from flights.demo.processes import Process, free_port, until
from shops import orders
from shops.process import ROWS
from shops.proofs import must, prove

RATE, SLOW = 5_000, 50  # orders a second that a shop builds; slowly in the program that is killed


class Demo:
    """The state that the steps share."""

    def __init__(self, directory: Path, shops: int, programs: int) -> None:
        self.directory = directory
        self.names = [f"shop-{number:02}" for number in range(1, shops + 1)]
        self.began = time.monotonic()
        self.decided = 0.0
        address = f"127.0.0.1:{free_port()}"
        self.url = f"everlog+insecure://{address}/ledger"
        self.coordinator = Process(
            "coordinator",
            *("everlog.console", "serve", f"ledger=file:{directory / 'ledger'}"),
            *("--fleet", "ledger", "--listen", address),
            directory=directory,
        )
        shared = self.names[:-1]
        split = [shared[number :: programs - 1] for number in range(programs - 1)] + [self.names[-1:]]
        # The last program has one shop.
        self.shops_of = {f"program-{number}": names for number, names in enumerate(split, 1)}
        self.killed, self.unplugged = "program-2", f"program-{programs}"
        self.programs = {
            program: self._program(program, SLOW if program == self.killed else RATE)
            for program in self.shops_of
        }
        self.left = self.names[-1]  # the shop of the program that is unplugged

    @property
    def processes(self) -> list[Process]:
        return [self.coordinator, *self.programs.values()]

    def step_1_a_fleet(self) -> None:
        _step(1, f"{len(self.names)} shops in {len(self.programs)} programs, and a coordinator")
        with everlog.open(f"file:{self.directory / 'ledger'}"):
            pass
        self.coordinator.start()
        with self._ledger() as db:
            for program in self.programs.values():
                program.start()
            until(lambda: len(_connected(db.fleet.status())) == len(self.names), *self.processes)
        _say(f"each has {ROWS:,} orders at version {orders.OLD}, a thread that writes, and one that reads")

    def step_2_prepared_and_killed(self) -> None:
        _step(2, f"all are upgraded to {orders.NEW} in unison: they build beside the live tables, and vote")
        mine = set(self.shops_of[self.killed])
        with self._ledger() as db:
            self.run_id = db.fleet.start(targets(db.fleet.status()), reason="split names").decision_id
            until(lambda: self._voted(db) >= set(self.names) - mine, *self.processes)
            until(lambda: self._built(db, mine) > 0, *self.processes)
            built = self._built(db, mine)
            self.programs[self.killed].kill()
            _say(f"SIGKILL to {self.killed}, whose shops had built {built:,} of {len(mine) * ROWS:,} orders")
            self.programs[self.unplugged].kill()
            _say(f"SIGKILL to {self.unplugged}: {self.left} has voted, and is unplugged")
            until(lambda: not _connected(db.fleet.status()) & {*mine, self.left}, *self._plugged(self.killed))
            voted = self._voted(db)
            versions = {one.report.version for one in db.fleet.status().members}
            must(self._run(db).decision is None and versions == {orders.OLD}, f"undecided: {versions}")
            _say(f"{len(voted)} of {len(self.names)} have voted: nothing is decided, all serve {orders.OLD}")

    def step_3_decided_and_killed(self) -> None:
        _step(3, f"{self.killed} comes back, and the coordinator is killed right after its decision")
        self.programs[self.killed] = self._program(self.killed, RATE)
        self.programs[self.killed].start()
        with self._ledger() as db:
            until(lambda: self._run(db).decision is not None, *self._plugged(), every_s=0.01)
            decided = time.monotonic()
            self.coordinator.kill()
        _say(f"SIGKILL to the coordinator, {1e3 * (time.monotonic() - decided):.0f} ms after the decision")

    def step_4_all_switched(self) -> None:
        _step(4, "the coordinator comes back, then the unplugged shop")
        began = time.monotonic()
        self.coordinator.start()
        with self._ledger() as db:
            run = self._run(db)
            must(run.decision is Decision.COMMIT, f"the decision is {run.decision}")
            ended = len(run.seats) - len(run.open_seats())
            until(lambda: len(self._run(db).open_seats()) == 1, *self._plugged())
            _say(f"its ledger has the decision, and {ended} of {len(run.seats)} ends: it continues")
            _say(f"{len(self.names) - 1} shops are switched {time.monotonic() - began:.1f} s later")
            self.programs[self.unplugged].start()
            until(lambda: not self._run(db).open_seats(), *self.processes)
            _say(f"{self.left} gets its order, and is switched: the run is {outcome(self._run(db))}")

    def step_5_proofs(self) -> None:
        _step(5, "proofs")
        for program in self.programs.values():
            program.stop()
        with self._ledger() as db:
            (ended,) = db.fleet.status().ended
        self.coordinator.stop()
        count = len(self.names)
        must((ended.upgraded, ended.members) == (count, count), f"the ledger has {ended}")
        found = prove(orders.SHOPS, self.directory, self.names)
        _proven(
            f"{found.shops} shops have one schema, {found.schema[:12]}, and serve the {found.form} version"
        )
        _proven(f"each of {found.written:,} acknowledged orders is there; the shops have {found.orders:,}")
        old, new = found.reads["old"], found.reads["new"]
        _proven(f"nobody saw two truths: {old:,} reads were all old, then {new:,} all new, and none mixed")
        print(f"\n     in all {time.monotonic() - self.began:.0f} seconds\n\n{NEXT.format(**vars(self))}")

    def _ledger(self) -> RemoteDatabase:
        db = everlog.open(self.url, timeout=60)  # it may have been started just now
        assert isinstance(db, RemoteDatabase)
        return db

    def _program(self, name: str, rate: int) -> Process:
        words = ["shops.process", str(self.directory), self.url, str(rate), *self.shops_of[name]]
        return Process(name, *words, directory=self.directory)

    def _plugged(self, *killed: str) -> list[Process]:
        out = [self.programs[name] for name in (self.unplugged, *killed)]
        return [one for one in self.processes if one not in out]

    def _run(self, db: RemoteDatabase) -> Run:
        return next(run for run in db.fleet.status().runs if run.decision_id == self.run_id)

    def _built(self, db: RemoteDatabase, names: set[str]) -> int:
        """Return how many rows some shops have built."""
        return sum(one.report.rows for one in db.fleet.status().members if one.report.name in names)

    def _voted(self, db: RemoteDatabase) -> set[str]:
        found = db.fleet.status()
        names = {one.report.database: one.report.name for one in found.members}
        run = next(run for run in found.runs if run.decision_id == self.run_id)
        return {names[seat.target.database] for seat in run.seats if seat.vote is not None}


NEXT = """\
     try next
       .venv/bin/everlog -u file:{directory}/ledger log --limit 8
       .venv/bin/everlog -u file:{directory}/{left} status
       docs/fleet.md"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make demo-fleet", description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("build/demo-fleet"), help="of all files")
    parser.add_argument("--shops", type=int, default=50, metavar="N", help="number of shops  [default: 50]")
    parser.add_argument("--programs", type=int, default=6, metavar="N", help="their programs  [default: 6]")
    chosen = parser.parse_args()
    shutil.rmtree(chosen.directory, ignore_errors=True)
    chosen.directory.mkdir(parents=True)
    demo = Demo(chosen.directory, chosen.shops, chosen.programs)
    with ExitStack() as stack:
        for process in demo.processes:
            stack.enter_context(process)
        demo.step_1_a_fleet()
        demo.step_2_prepared_and_killed()
        demo.step_3_decided_and_killed()
        demo.step_4_all_switched()
        demo.step_5_proofs()


def _connected(found: FleetStatus) -> set[str]:
    return {one.report.name for one in found.members if one.connected}


def _step(number: int, what: str) -> None:
    print(f"\n{number}/5  {what}", flush=True)


def _say(what: str) -> None:
    print(f"     {what}", flush=True)


def _proven(what: str) -> None:
    _say(f"PROVEN  {what}")


if __name__ == "__main__":
    main()
