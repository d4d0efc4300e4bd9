"""Chaos: a fleet that is upgraded again and again, while its programs and its coordinator are killed.

    python -m tests.fleet.chaos --members 200 --programs 4 --rounds 10 --seed 7
    python -m tests.fleet.chaos --minutes 2         again and again, with other seeds

A round is one run of the protocol. During it, programs with many embedded members, and the coordinator, are
killed with SIGKILL at random moments and started again; some runs have a short deadline, some are aborted by
an operator. Each run must end, at all members alike. At the end the shops on disk are compared with what was
acknowledged and read (examples/shops/proofs.py): nothing is lost, and nobody saw two versions at once.

Each of the migrations rewrites all rows.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import everlog
from everlog import MigrationError, UnavailableError, migrations
from everlog.fleet.protocol import Decision, Phase
from everlog.fleet.status import FleetStatus
from everlog.migrations import build
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.client.fleet import targets
from flights.demo.processes import Process, free_port, until
from shops import process
from shops.orders import Form, Shops
from shops.proofs import Proven, must, prove

FIRST = 20260101000000
RATES = (300, 3_000, 100_000)  # rows a second of a member, by program
WAIT_S = 900.0

MODEL = """\
syntax = "proto3";

package chaos.v{version};

message Order {{
  int64 number = 1;
  int64 pieces = 2;
  string text{at} = {field};
{reserved}}}
"""

CODE = """\
from everlog.migrations import INT64, Fields, Migration, Table, Transform

{imports}from .model_pb2 import Order

NUMBER = Fields(Order)("number", 1, INT64)

ORDERS = Table("orders", Order, key=NUMBER)

{code}
"""

UP = """
def up(old: Before) -> Order:
    text = old.text{before}.replace("v{before} ", "v{at} ")
    return Order(number=old.number, pieces=old.pieces, text{at}=text)


MIGRATION = Migration(tables=[ORDERS], transforms=[Transform(ORDERS, Before, up)])
"""


def write_migrations(path: Path, count: int) -> None:
    """Write migrations that each rewrite the text of an order."""
    path.mkdir()
    (path / "__init__.py").write_text("")
    for at in range(count + 1):
        folder = path / f"v{FIRST + at}_form_{at}"
        folder.mkdir()
        gone = "".join(f"  reserved {number + 3};\n" for number in range(at))
        (folder / "model.proto").write_text(
            MODEL.format(version=FIRST + at, at=at, field=at + 3, reserved=gone)
        )
        imports, code = "", "MIGRATION = Migration(tables=[ORDERS])\n"
        if at:
            imports = f"from ..v{FIRST + at - 1}_form_{at - 1}.model_pb2 import Order as Before\n"
            code = UP.format(at=at, before=at - 1)
        (folder / "__init__.py").write_text(CODE.format(imports=imports, code=code))
    build(path)


def model_of(path: Path) -> Shops:
    def made(table: Any, at: int, number: int, pieces: int) -> Any:
        return table.model(number=number, pieces=pieces, **{f"text{at}": f"v{at} of {number}"})

    tables = [migration.tables[0] for migration in migrations.load(path)]
    forms = [Form(f"v{at}", table, partial(made, table, at)) for at, table in enumerate(tables)]
    return Shops(str(path), FIRST, forms)


class Outcome(NamedTuple):
    """What a run of the chaos did. `decisions`: how often each."""

    decisions: Counter[str]
    kills: Counter[str]
    proven: Proven
    seconds: float

    def __str__(self) -> str:
        reads = sum(self.proven.reads.values())
        return (
            f"{self.proven.shops} members, {sum(self.decisions.values())} runs ({_listed(self.decisions)}),"
            f" {sum(self.kills.values())} kills ({_listed(self.kills)}); {self.proven.written:,} acknowledged"
            f" orders, {reads:,} reads; {self.seconds:.0f} s"
        )


def _listed(found: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(found.items()))


class Chaos:
    """A fleet in a directory. `members` and `programs`: their numbers."""

    def __init__(self, directory: Path, members: int, programs: int, rounds: int, seed: int) -> None:
        self.directory, self.rounds, self.random = directory, rounds, Random(seed)
        self.source = directory / "forms"
        write_migrations(self.source, rounds)
        self.model = model_of(self.source)
        self.names = [f"shop-{number:03}" for number in range(members)]
        address = f"127.0.0.1:{free_port()}"
        self.url = f"everlog+insecure://{address}/ledger"
        with everlog.open(f"file:{directory / 'ledger'}"):
            pass
        serve = ("everlog.console", "serve", f"ledger=file:{directory / 'ledger'}")
        self.processes = {
            "coordinator": Process(
                "coordinator", *serve, "--fleet", "ledger", "--listen", address, directory=directory
            )
        }
        for number in range(programs):
            words = ["member", str(directory), self.url, str(RATES[number % len(RATES)])]
            self.processes[f"program-{number}"] = Process(
                f"program-{number}",
                *("tests.fleet.chaos", *words, *self.names[number::programs]),
                directory=directory,
            )
        self.kills: Counter[str] = Counter()
        self.decisions: Counter[str] = Counter()

    def run(self) -> Outcome:
        began, version = time.monotonic(), 0
        with ExitStack() as stack:
            for one in self.processes.values():
                stack.enter_context(one)
            self.processes["coordinator"].start()
            with everlog.open(self.url, timeout=60) as db:
                assert isinstance(db, RemoteDatabase)
                for name, one in self.processes.items():
                    if name != "coordinator":
                        one.start()
                for _ in range(self.rounds):
                    decision = self._round(db, FIRST + version + 1)
                    version += decision is Decision.COMMIT
                    self.decisions[decision.value.lower()] += 1
                ended = self._status(db).ended
                must(
                    [one.upgraded for one in ended if one.upgraded] == [len(self.names)] * version,
                    f"the ledger has {ended}",
                )
            for name, one in self.processes.items():
                if name != "coordinator":
                    one.stop()
            self.processes["coordinator"].stop()
        found = prove(self.model, self.directory, self.names)
        must(found.form == f"v{version}", f"all serve {found.form} after {version} upgrades")
        return Outcome(self.decisions, self.kills, found, time.monotonic() - began)

    def _round(self, db: RemoteDatabase, to: int) -> Decision:
        """Carry out one run beside kills, and return its decision."""
        until(lambda: self._is_ready(self._status(db)), *self.processes.values(), timeout_s=WAIT_S)
        random, plan = self.random, targets(self._status(db), to=to)
        must(len(plan) == len(self.names), f"{len(plan)} of {len(self.names)} members are in the plan")
        deadline_s = random.choice([2.0, 3600.0, 3600.0, 3600.0])
        run = db.fleet.start(plan, deadline_s=deadline_s).decision_id
        span_s = random.choice([0.3, 2.0, 6.0])  # some end before the votes, some after the decision
        events = sorted((random.uniform(0, span_s), self._kill) for _ in range(random.randint(1, 4)))
        if random.random() < 0.2:
            events.append((random.uniform(0, span_s), lambda: self._abort(db, run)))
        began = time.monotonic()
        for at_s, event in sorted(events, key=lambda event: event[0]):
            time.sleep(max(0.0, began + at_s - time.monotonic()))
            event()
        found: list[Any] = []

        def has_ended() -> bool:
            found[:] = [one for one in self._status(db).ended if one.decision_id == run]
            return bool(found)

        until(has_ended, *self.processes.values(), timeout_s=WAIT_S)
        members = self._status(db).members
        upgraded = {one.report.name for one in members if one.report.version == to}
        committed = found[0].decision is Decision.COMMIT
        must(found[0].upgraded == (len(plan) if committed else 0), f"the ledger has {found[0]}")
        must(len(upgraded) == (len(plan) if committed else 0), f"after {found[0]}, upgraded: {upgraded}")
        return Decision(found[0].decision)

    def _status(self, db: RemoteDatabase) -> FleetStatus:
        """Return the status, also after the coordinator was killed."""
        until_s = time.monotonic() + WAIT_S
        while True:
            try:
                return db.fleet.status()
            except UnavailableError:  # it starts slowly on a machine that is busy
                self.processes["coordinator"].check()
                if time.monotonic() >= until_s:
                    raise

    def _is_ready(self, found: FleetStatus) -> bool:
        """Whether all members are connected, and hold no run."""
        held = {Phase.PREPARING, Phase.PREPARED}
        ready = [one for one in found.members if one.connected and one.report.phase not in held]
        must(not any(one.alarm for one in found.members), f"alarms: {[one.alarm for one in found.members]}")
        return len(ready) == len(self.names)

    def _kill(self) -> None:
        name = self.random.choice(sorted(self.processes))
        self.processes[name].kill()
        self.kills["of the coordinator" if name == "coordinator" else "of programs"] += 1
        time.sleep(self.random.choice([0.0, 0.0, 1.0]))
        self.processes[name].start()

    def _abort(self, db: RemoteDatabase, run: bytes) -> None:
        try:
            db.fleet.abort(run, reason="chaos")
        except (MigrationError, UnavailableError) as error:  # decided, or the coordinator is away
            print(f"not aborted: {error}", file=sys.stderr)  # noqa: T201


def one(members: int, programs: int, rounds: int, seed: int, directory: Path | None = None) -> Outcome:
    """Run the chaos with a seed. Raises SystemExit for a finding, and keeps its files then."""
    path = Path(tempfile.mkdtemp(prefix="chaos-", dir=directory))
    try:
        found = Chaos(path, members, programs, rounds, seed).run()
    except BaseException:
        print(f"seed {seed}; the files are in {path}", flush=True)  # noqa: T201
        raise
    shutil.rmtree(path)
    return found


def main() -> None:
    if sys.argv[1:2] == ["member"]:
        directory, url, rate, *names = sys.argv[2:]
        path = Path(directory)
        process.run(model_of(path / "forms"), path, url, float(rate), names)
        return
    parser = argparse.ArgumentParser(prog="python -m tests.fleet.chaos")
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--programs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--minutes", type=float, default=0.0)
    given = parser.parse_args()
    until_s = time.monotonic() + given.minutes * 60
    while True:
        seed = given.seed or Random().randrange(1, 1_000_000)
        print(f"seed {seed}: {one(given.members, given.programs, given.rounds, seed)}", flush=True)  # noqa: T201
        if given.seed or time.monotonic() >= until_s:
            return


if __name__ == "__main__":
    main()
