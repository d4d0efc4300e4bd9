"""Worker: one run of the campaign, in a process that is killed.

    python -m tests.crash.worker DIRECTORY LIFE SEED [POINT]

    4 writers      ─▶ transactions, one of them through a server     ┐
    one more       ─▶ sealed rows, and rows that expire              │
    3 threads      ─▶ maintenance operations, each in sequence       ├─▶ journal
    follower       ─▶ SQLite, from the database or from the server   ┘

Its actions follow from its seed; their interleaving depends on the machine.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from everlog import migrations
from everlog.consumers import Follower, SqliteSink
from everlog.migrations.in_progress import attach as attach_code
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.clock import Clock
from everlog.store.errors import DiskError, Error
from tests.crash import beside, broken, clocks, disk, outside, points
from tests.crash.folders import FIRST, Folders, opened
from tests.crash.forks import Forks
from tests.crash.journal import Journal
from tests.crash.maintenance import Maintenance
from tests.crash.operations import OPERATIONS, read_beside
from tests.crash.people import People
from tests.crash.transactions import PAUSE_S, Transactions, ended

WRITERS = 4
OPEN_MIRROR = "open", ("items", "codes", "limits")
# In its environment: the disk fails, or the files are moved away, so that errors are not findings.
FAILING, MOVED = "EVERLOG_DISK_FAIL", "EVERLOG_FILES_MOVED"
# Operations on the files by their path, where other files may be: their errors are not findings then.
BY_PATH = {read_beside, beside.hold}
LEFT = 3  # the exit code of a process that SIGTERM ends without closing


class Worker:
    """`directory` contains the database, the journal, the follower's file and the folders."""

    def __init__(self, directory: Path, life: int, seed: int) -> None:
        self.directory, self.life, self.seed = directory, life, seed
        self.journal = Journal(directory / f"journal-{life}")
        self.failing = FAILING in os.environ or MOVED in os.environ
        self.left = False
        self.clock = clocks.WallClock()
        self.forks = Forks()
        self.ended = threading.Event()

    def run(self) -> None:
        folders = Folders(self.directory)
        with ExitStack() as stack:
            clock = Clock(wall=self.clock.time_ns)
            db = stack.enter_context(opened(self.directory / "db", clock=clock))
            attach_code(db, folders.loaded)
            if db.schema.version < FIRST:
                migrations.apply(db, folders.path, to=FIRST)
            server = stack.enter_context(Server({"x": db}))
            remote = stack.enter_context(RemoteDatabase(server.url("x")))
            work: list[Callable[[], None]] = [
                lambda: self.maintenance(db, folders, "", OPERATIONS),
                lambda: self.maintenance(db, folders, "b", beside.OPERATIONS),
                lambda: self.follow(remote if self.seed % 2 else db),
                People(db, folders, self.journal, f"{self.life}.p", self.seed).run,
            ]
            if MOVED not in os.environ:  # the replacement is another database, and may be opened
                work.append(lambda: self.maintenance(db, folders, "o", outside.OPERATIONS))
            if clocks.is_turned():
                chance = random.Random(f"{self.seed} clock")
                work.append(lambda: self.clock.run(self.journal, chance, self.ended))
            for number in range(WRITERS):
                where = remote if number == 0 else db
                work.append(
                    Transactions(where, folders, self.journal, f"{self.life}.{number}", self.seed).run
                )
            signal.signal(signal.SIGTERM, self._leave)
            threads = [threading.Thread(target=self._kept, args=(one,), daemon=True) for one in work]
            for thread in threads:
                thread.start()
            print("open", flush=True)  # noqa: T201  read by the parent
            try:
                self.forks.serve(self.directory)
            except SystemExit:
                stack.pop_all()  # nothing is closed, and the threads continue to write
                raise
        # Only after a finding, or if the disk failed: the parent reads the journal.
        os._exit(1)

    def _leave(self, *_: object) -> None:
        self.failing = self.left = True  # a refusal from here on is not a finding
        self.forks.exit(LEFT)

    def _kept(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Error as error:
            if MOVED in os.environ and not ended(error):
                self.journal.say(disk=str(error))  # it used the files at their former path
                return
            if not (self.failing and (isinstance(error, DiskError) or FAILING not in os.environ)):
                self.journal.failed()
            self.journal.say(disk=str(error))
        except BaseException as error:  # noqa: BLE001  it would end the thread, unseen
            if MOVED in os.environ and isinstance(error, AssertionError):
                self.journal.say(disk=str(error))  # a check that finds no files
                return
            if self.left:
                self.journal.say(disk=str(error))  # no more threads can be started
            else:
                self.journal.failed()
        if not self.failing or MOVED in os.environ:
            self.ended.set()
            self.forks.end()

    def maintenance(
        self,
        db: EmbeddedDatabase,
        folders: Folders,
        kind: str,
        operations: Mapping[Callable[[Maintenance], None], int],
    ) -> None:
        chance = random.Random(f"{self.seed}{kind}")
        if MOVED in os.environ:
            operations = {one: often for one, often in operations.items() if one not in BY_PATH}
        names, weights = list(operations), list(operations.values())
        for number in range(1 << 30):
            (operation,) = chance.choices(names, weights)
            name = f"{self.life}.{kind}{number}"
            mine = random.Random(f"{self.seed} {name}")
            try:
                operation(
                    Maintenance(db, folders, self.journal, mine, name, self.directory, self.clock, self.forks)
                )
            except DiskError as error:
                if not disk.is_filling():
                    raise
                self.journal.say(disk=str(error))  # the disk has space again later
                time.sleep(PAUSE_S)

    def follow(self, source: EmbeddedDatabase | RemoteDatabase) -> None:
        """Follow the open tables from a server, which gives its keys to no client."""
        name, tables = ("mirror", None) if isinstance(source, EmbeddedDatabase) else OPEN_MIRROR
        with SqliteSink(self.directory / f"{name}.sqlite") as sink:
            Follower(source, sink, tables=tables, changes_max=50).run()


def main(directory: str, life: str, seed: str, point: str = "") -> None:
    broken.apply()
    if point:
        points.arm(points.Point.parse(point))
    worker = Worker(Path(directory), int(life), int(seed))
    try:
        worker.run()
    except Error as error:
        if not worker.failing:
            worker.journal.failed()
        worker.journal.say(disk=str(error))
    except SystemExit:
        raise
    except BaseException:  # noqa: BLE001  the parent reads the journal
        worker.journal.failed()


if __name__ == "__main__":
    main(*sys.argv[1:])
