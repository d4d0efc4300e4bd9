"""The demo in seven steps: `make demo`.

All its files are in build/demo, and stay there. With --console the server has web pages from step 3, and
stays at the end, until Ctrl-C.
"""

import argparse
import platform
import shutil
import sqlite3
import time
from contextlib import ExitStack, closing, suppress
from importlib.metadata import version
from pathlib import Path

import everlog
from everlog import EmbeddedDatabase, Progress
from everlog.console.cli.console import CONSOLE
from everlog.console.output import show_progress
from everlog.rpc.client.database import RemoteDatabase
from flights.create import create
from flights.demo import proofs
from flights.demo.processes import Process, free_port, until
from flights.demo.summary import Summary
from flights.demo.writer import read

EDITS = 300  # to be acknowledged between two events


class Demo:
    """The state that the steps share."""

    def __init__(self, directory: Path, flights: int | None, console: str | None) -> None:
        self.directory = directory
        self.flights = flights
        self.database = directory / "flights.db"
        self.sqlite = directory / "flights.sqlite"
        self.journal = directory / "acknowledged.txt"
        self.summary = Summary(self.database, self.sqlite)
        self.console = console
        address = f"127.0.0.1:{free_port()}"
        self.url = f"everlog+insecure://{address}/flights"
        self.server = Process(
            "server",
            *("everlog.console", "serve", f"flights=file:{self.database}", "--listen", address),
            *(("--console", console, "--migrations", "flights.migrations") if console else ()),
            directory=directory,
        )
        self.follower = Process(
            "follower",
            *("everlog.console", "follow", "--from", self.url, "--to", f"sqlite:{self.sqlite}"),
            directory=directory,
        )
        self.writer = Process(
            "writer", "flights.demo.writer", self.url, str(self.journal), directory=directory
        )

    def step_1_an_environment(self) -> None:
        _step(1, "an environment from constraints.txt")
        _say(f"Python {platform.python_version()}, everlog {version('everlog')}, grpcio {version('grpcio')}")

    def step_2_a_database(self) -> None:
        _step(2, "a database, from six typed migrations and a bulk load of real data")
        began = time.monotonic()
        with show_progress() as progress:
            db = create(f"file:{self.database}", flights=self.flights, progress=progress)
        with db:
            self.summary.created(db, time.monotonic() - began)
            for info in db.migration_records():
                _say(f"commit {info.seq}: migration {info.migration.version}_{info.migration.name}")
        _say(self.summary.load)

    def step_3_a_server(self) -> None:
        _step(3, "a server, a process of its own")
        self.server.start()
        with everlog.open(self.url, timeout=30) as db:  # the server has only just been started
            _say(f"process {self.server.pid} serves {self.url}, at commit {db.head}")
        if self.console:
            _say(f"its console: http://{self.console}")

    def step_4_a_follower_and_a_writer(self) -> None:
        _step(4, "a follower mirrors five tables into SQLite, while a writer changes rows")
        self.writer.start()
        self.follower.start()
        self.summary.mirror_began = time.monotonic()
        self._mirror(0.5)
        _say(f"SQLite is half-way, at commit {self.position}; {self.acknowledged} edits are acknowledged")

    def step_5_killed(self) -> None:
        _step(5, "the follower is killed half-way, the server in the middle of writes")
        self.follower.kill()
        at = self.position
        _say(f"SIGKILL to the follower, process {self.follower.pid}: SQLite is at commit {at}, and whole")
        self.follower.start()
        self._mirror(1)
        self.summary.mirror_ended = time.monotonic()
        _say(f"started again: it resumed after {at}, and has all commits, at {self.position}")
        self._more_edits()
        self.server.kill()
        before = self.acknowledged
        _say(f"SIGKILL to the server, process {self.server.pid}: {before} edits were acknowledged")
        self.server.start()
        away_s = until(lambda: self.acknowledged > before, self.server, self.writer, self.follower)
        _say(f"started again: writer and follower resumed by themselves, after {away_s:.1f} s")
        self._more_edits()

    def step_6_proofs(self) -> None:
        _step(6, "proofs")
        self.writer.stop()
        with everlog.open(self.url, timeout=30) as db, show_progress() as progress:
            assert isinstance(db, RemoteDatabase)
            head = db.head
            until(lambda: self.position == head, self.server, self.follower)
            self.follower.stop()
            told = list(read(self.journal))
            self.summary.read = proofs.every_acknowledged_commit_is_there(db, told, progress)
            _proven(f"each of {len(told):,} acknowledged edits is in the log, once, as it was acknowledged")
            proofs.the_mirror_is_equal(db, self.sqlite, progress)
            _proven("SQLite equals the tables: rows and content hash of each")
        self.server.stop()
        with everlog.open(f"file:{self.database}", read_only=True) as db, show_progress() as progress:
            assert isinstance(db, EmbeddedDatabase)
            changes = self.summary.read.changes
            self.summary.rebuilt = proofs.the_log_alone_is_enough(
                db, self.directory / "rebuilt.db", changes, progress
            )
            _proven("tables rebuilt from the log alone, in a new directory, equal the live ones")

    def step_7_a_summary(self) -> None:
        _step(7, "summary")
        print(self.summary.text(edits=self.acknowledged))

    def keep_the_console(self) -> None:
        """Serve the result until Ctrl-C."""
        self.server.start()
        with everlog.open(self.url, timeout=30):
            print(f"\n     console: http://{self.console}, until Ctrl-C", flush=True)
        with suppress(KeyboardInterrupt):
            self.server.wait()
        self.server.stop(interrupted=True)

    @property
    def position(self) -> int:
        """The position of SQLite in the log. Any program may read it at any time."""
        if not self.sqlite.exists():
            return 0
        with closing(sqlite3.connect(f"file:{self.sqlite}?mode=ro", uri=True)) as reader:
            try:
                found = reader.execute("SELECT seq FROM _everlog").fetchone()
            except sqlite3.OperationalError:  # the follower has not created it yet
                return 0
        return int(found[0]) if found else 0

    @property
    def acknowledged(self) -> int:
        return sum(1 for _ in read(self.journal))

    def _mirror(self, part: float) -> None:
        """Wait until SQLite has this fraction of the current log."""
        with everlog.open(self.url, timeout=30) as db, show_progress() as progress:
            target = int(db.head * part)

            def there() -> bool:
                at = self.position
                progress(Progress("mirror", min(at, target), target, "commits"))
                return at >= target

            until(there, self.server, self.follower, self.writer)

    def _more_edits(self) -> None:
        before = self.acknowledged
        until(lambda: self.acknowledged >= before + EDITS, self.server, self.follower, self.writer)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("build/demo"), help="directory of all files")
    parser.add_argument("--flights", type=int, metavar="N", help="number of flights to load  [default: all]")
    parser.add_argument(
        "--console",
        nargs="?",
        const=CONSOLE,
        metavar="HOST:PORT",
        help=f"serve web pages, and keep them open until Ctrl-C  [without an address: {CONSOLE}]",
    )
    chosen = parser.parse_args()
    shutil.rmtree(chosen.directory, ignore_errors=True)
    chosen.directory.mkdir(parents=True)
    demo = Demo(chosen.directory, chosen.flights, chosen.console)
    with ExitStack() as stack:
        for process in (demo.server, demo.follower, demo.writer):
            stack.enter_context(process)
        demo.step_1_an_environment()
        demo.step_2_a_database()
        demo.step_3_a_server()
        demo.step_4_a_follower_and_a_writer()
        demo.step_5_killed()
        demo.step_6_proofs()
        demo.step_7_a_summary()
        if demo.console:
            demo.keep_the_console()


def _step(number: int, what: str) -> None:
    print(f"\n{number}/7  {what}", flush=True)


def _say(what: str) -> None:
    print(f"     {what}", flush=True)


def _proven(what: str) -> None:
    _say(f"PROVEN  {what}")


if __name__ == "__main__":
    main()
