"""Soak: everything at once for a long time, in one process, whose resources must not grow.

    python -m tests.crash.soak --minutes 30

    writers here ──┐                       ┌─▶ follower into SQLite, from the server
    writers there ─┴─▶ database ─▶ server ─┼─▶ one permanent subscriber, short-lived subscribers
    flush, compaction, rebuild, snapshots  └─▶ short-lived clients and second readers
    rows that expire, reads of the past, checkpoints, archiving of old records

Memory, file descriptors, threads and files of the log are sampled; trend.py defines what counts as flat.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from everlog.audit import archive
from everlog.audit.archived import attach
from everlog.audit.note import Signer
from everlog.audit.prover import LocalProver, checkpoint
from everlog.consumers import Follower, SqliteSink, verify
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.database import Database
from everlog.store.tables.tables import KEYS_MAX
from everlog.store.tx.transaction import Transaction
from tests.crash.trend import HEADING, Sample, told
from tests.store.models import AIRPORTS, ITEMS, Item, airport, declare, items

KEYS = 5000
PAUSE_S = 0.002  # pause of each writer after each commit, because the test measures growth and not speed
SAMPLES = 120
RECORDS_PER_BLOCK = 20  # at the least
LIFE_S = 20.0  # of each airport, at the most
KEEP_RECORDS = 50_000  # records that are not archived


class Soak:
    """The work, as threads that run until `stop`."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.seed = path, seed
        self.stop = threading.Event()
        self.failed: list[str] = []
        self.db = EmbeddedDatabase(path / "db", durability="os")
        attach(self.db)
        self.signer = Signer.generate("soak")
        declare(self.db, ITEMS, AIRPORTS)
        self.db.load(ITEMS, items(0, KEYS))
        self._fill()
        self.server = Server({"x": self.db}).start()
        self.url = self.server.url("x")

    def _fill(self) -> None:
        """Fill everything that has a limit and would otherwise grow for the first quarter of an hour: the
        window of recent commits, and RocksDB's cache. Rare operations are done once.
        """
        for number in range(KEYS_MAX):
            self.db.put(ITEMS, Item(id=number % KEYS, text="x" * (number % 300)))
        self.db.engine.flush()
        for seq in range(1, self.db.head, RECORDS_PER_BLOCK):
            self.db.log.get(seq)
        self.archive()
        self.look_back(random.Random(self.seed))
        self.db.admin.rebuild()

    def threads(self) -> list[threading.Thread]:
        often: list[tuple[Callable[[random.Random], object], float]] = [
            (self.visit, 1.0),
            (self.subscribe, 1.0),
            (self.read_beside, 10.0),
            (self.look, 0.2),
            (lambda _: self.db.engine.flush(), 15.0),
            (lambda _: self.db.engine.compact_data(b"", b"\xff" * 16), 30.0),
            (lambda _: self.db.admin.rebuild(), 60.0),
            (self.look_back, 2.0),
            (lambda _: checkpoint(LocalProver(self.db), self.signer), 5.0),
            (lambda _: self.archive(), 45.0),
        ]
        work: list[Callable[[], None]] = [self.write_here, self.write_here, self.write_there]
        work += [self.follow, self.stay]
        work += [lambda what=what, every_s=every_s: self.again(what, every_s) for what, every_s in often]  # type: ignore[misc]
        return [threading.Thread(target=self._kept, args=(one,), daemon=True) for one in work]

    def _kept(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException:  # noqa: BLE001  it would end the thread, unseen
            if not self.stop.is_set():
                self.failed.append(traceback.format_exc())
                self.stop.set()

    def again(self, what: Callable[[random.Random], object], every_s: float) -> None:
        chance = random.Random(self.seed)
        while not self.stop.wait(every_s):
            what(chance)

    def write_here(self) -> None:
        self._write(self.db)

    def write_there(self) -> None:
        with RemoteDatabase(self.url) as remote:
            self._write(remote)

    def _write(self, db: EmbeddedDatabase | RemoteDatabase) -> None:
        chance = random.Random(self.seed)

        def change(tx: Transaction) -> None:
            one = chance.randrange(KEYS)
            row = tx.get(ITEMS, one)
            tx.put(ITEMS, Item(id=one, n=row.n + 1 if row else 0, text="x" * chance.randrange(300)))
            if not chance.randrange(5):
                tx.delete(ITEMS, chance.randrange(KEYS))
            if not chance.randrange(5):
                expires = time.time_ns() + int(chance.uniform(0, LIFE_S) * 1e9)
                city = f"city {chance.randrange(99)}"
                tx.put(AIRPORTS, airport(f"A{chance.randrange(KEYS)}", city), expires=expires)

        while not self.stop.wait(PAUSE_S):
            db.run(change, retries=1000, actor="soak", durability=chance.choice(("os", "os", "sync")))

    def follow(self) -> None:
        with RemoteDatabase(self.url) as remote, SqliteSink(self.path / "mirror.sqlite") as sink:
            Follower(remote, sink).run(stop=self.stop)

    def stay(self) -> None:
        """Keep one subscription for the whole time, which misses nothing."""
        with RemoteDatabase(self.url) as remote:
            seq = 0
            for commit in remote.feed(after=0):
                assert commit.seq == seq + 1
                seq = commit.seq
                if self.stop.is_set():
                    return

    def subscribe(self, chance: random.Random) -> None:
        with RemoteDatabase(self.url) as remote:
            after = max(0, self.db.head - 200)
            for at, commit in enumerate(remote.feed(after=after, bounded=True), after + 1):
                assert commit.seq == at

    def visit(self, chance: random.Random) -> None:
        with RemoteDatabase(self.url) as remote:
            list(remote.scan(ITEMS, start=chance.randrange(KEYS), limit=100))

    def look(self, chance: random.Random) -> None:
        with self.db.snapshot() as snapshot:
            start = chance.randrange(KEYS)
            assert len(list(snapshot.scan(ITEMS, start=start, limit=500))) <= 500

    def look_back(self, chance: random.Random) -> None:
        with self.db.at(seq=chance.randrange(self.db.head // 2, self.db.head)) as then:
            assert len(list(then.scan(ITEMS, start=chance.randrange(KEYS), limit=20))) <= 20

    def archive(self) -> None:
        archive(self.db, self.path / "archive", keep_records=KEEP_RECORDS)

    def read_beside(self, chance: random.Random) -> None:
        with Database(self.path / "db", read_only=True) as reader:
            assert reader.count(ITEMS) <= KEYS + 1

    def end(self) -> None:
        """Check the database, and that the follower is equal."""
        self.server.stop()
        assert list(self.db.admin.check()) == []
        with SqliteSink(self.path / "mirror.sqlite") as sink:
            Follower(self.db, sink).run(bounded=True)
            assert verify(self.db, sink) == []
        self.db.close()


def run(minutes: float, seed: int, say: Callable[[str], object] = print) -> bool:
    """Return whether all resources stayed flat. Raises the error of any thread."""
    with tempfile.TemporaryDirectory(prefix="everlog-soak-") as name:
        soak, started, samples = Soak(Path(name), seed), time.monotonic(), list[Sample]()
        threads = soak.threads()
        for thread in threads:
            thread.start()
        say(HEADING)
        for number in range(SAMPLES):
            if soak.stop.wait(minutes * 60 / SAMPLES):
                break
            samples.append(one := Sample.take(started, soak.db))
            if not number % (SAMPLES // 12):
                say(str(one))
        soak.stop.set()
        for thread in threads:
            thread.join(60)
        assert not soak.failed, soak.failed[0]
        soak.end()
    return told(samples, say)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.soak")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    raise SystemExit(not run(given.minutes, given.seed))


if __name__ == "__main__":
    main()
