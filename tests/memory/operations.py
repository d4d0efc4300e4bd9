"""Operations whose peak memory is measured, on rows of the maximum size.

    python -m tests.memory.operations DIRECTORY ROWS NAME…    one line each: name, MiB over the base

The peak is `VmHWM` of /proc/self/status, which is reset before each operation. The base is the process
with all modules loaded and a small database used once.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import everlog.migrations.runner
import everlog.rpc.server.server  # noqa: F401  part of the base
from everlog.audit.archive import archive
from everlog.audit.backup import backup
from everlog.audit.prover import LocalProver
from everlog.audit.restore import restore
from everlog.audit.verify_backup import verify_backup
from everlog.consumers.follower.follower import Follower
from everlog.consumers.sqlite.sink import SqliteSink
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store import keys
from everlog.store.rocks.engine import Engine
from everlog.store.schema.codec import BYTES, STRING, UINT64
from everlog.store.schema.table import Field, Index, Table
from tests.store.models import declare, models

BLOB = models("blobs", Blob="id 1 uint64, kind 2 string, data 3 bytes")["Blob"]
ID, KIND, DATA = Field(BLOB, "id", 1, UINT64), Field(BLOB, "kind", 2, STRING), Field(BLOB, "data", 3, BYTES)
BLOBS: Table[Any, int] = Table("blobs", BLOB, key=ID, indexes=(Index("by_kind", KIND),))
BLOBS_BY_ID: Table[Any, int] = Table(
    "blobs", BLOB, key=ID, indexes=(Index("by_kind", KIND), Index("by_id", ID))
)
NAME = models("names", Name="id 1 string")["Name"]
NAMED: Table[Any, str] = Table("named", NAME, key=Field(NAME, "id", 1, STRING))
SMALL_ROWS = 600  # before the large ones: a sudden change of the row size
MIB = 1 << 20
LARGE = keys.ROW_BYTES_MAX - 100


def blobs(first: int, count: int, size: int = LARGE) -> Iterator[Any]:
    """Yield rows that cannot be compressed."""
    for number in range(first, first + count):
        yield BLOB(id=number, kind=f"k{number % 7}", data=random.Random(number).randbytes(size))


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[EmbeddedDatabase]:
    with EmbeddedDatabase(path, **options) as db:
        if not db.schema.version:
            declare(db, BLOBS)
        yield db


def fill(path: Path, rows: int) -> None:
    """Fill a database with small rows, then with large ones, some of which are written twice."""
    with opened(path) as db:
        with db.transaction() as tx:
            for row in blobs(0, SMALL_ROWS, 10):
                tx.put(BLOBS, row)
        for row in blobs(SMALL_ROWS, rows):
            db.put(BLOBS, row, durability="os")
        for row in blobs(SMALL_ROWS, min(8, rows)):
            db.put(BLOBS, row, durability="os")


def spend(rows: Any) -> int:
    """Iterate over rows, and keep none."""
    return sum(1 for _ in rows)


class Operations:
    """Each public method is one operation; `path` is a database of large rows, which it may change."""

    def __init__(self, path: Path, rows: int, scratch: Path) -> None:
        self.path, self.rows, self.scratch = path, rows, scratch
        self.count = SMALL_ROWS + rows

    # reading

    def scan(self) -> None:
        with opened(self.path) as db:
            assert spend(db.scan(BLOBS)) == self.count
            assert spend(db.scan(BLOBS, reverse=True)) == self.count

    def scan_index(self) -> None:
        with opened(self.path) as db:
            assert spend(db.scan(BLOBS.by_kind)) == self.count

    def scan_snapshot(self) -> None:
        """Scan while the rows are overwritten: the iterator returns the earlier ones."""
        with opened(self.path) as db, db.snapshot() as then:
            db.put(BLOBS, BLOB(id=1))
            assert spend(then.scan(BLOBS)) == self.count
            assert spend(then.scan(BLOBS.by_kind, reverse=True)) == self.count

    def scan_in_transaction(self) -> None:
        with opened(self.path) as db:
            tx = db.transaction()
            tx.put(BLOBS, BLOB(id=3, kind="a"))
            assert spend(tx.scan(BLOBS)) == self.count

    def count_rows(self) -> None:
        with opened(self.path) as db:
            assert db.count(BLOBS) == self.count
            assert db.count(BLOBS, start=5) == self.count - 5
            assert db.count(BLOBS.by_kind) == self.count

    def hashes(self) -> None:
        with opened(self.path) as db:
            db.admin.hashes()

    def check(self) -> None:
        with opened(self.path) as db:
            assert list(db.admin.check()) == []

    def past(self) -> None:
        with opened(self.path) as db, db.at(seq=db.head - 3) as then:
            assert spend(then.scan(BLOBS)) == self.count
            assert spend(then.scan(BLOBS.by_kind)) == self.count
            assert spend(db.past.diff(BLOBS, 3, db.head)) >= self.rows - 1
            then.hashes()

    def history(self) -> None:
        with opened(self.path) as db:
            for _ in range(20):
                db.put(BLOBS, next(blobs(SMALL_ROWS, 1)))
            assert spend(db.history(BLOBS, SMALL_ROWS)) >= 20
            assert spend(db.history(BLOBS, SMALL_ROWS, newest_first=False)) >= 20
            assert spend(db.past.log(table=BLOBS)) >= self.rows
            assert spend(db.past.log(table=BLOBS, key=SMALL_ROWS)) >= 20

    def feed(self) -> None:
        with opened(self.path) as db:
            assert spend(db.feed(after=0, bounded=True)) > self.rows

    # writing

    def puts(self) -> None:
        with opened(self.scratch / "puts") as db:
            for row in blobs(0, self.rows):
                db.put(BLOBS, row, durability="os")

    def puts_over(self) -> None:
        """Write one row again and again, and read it in between."""
        with opened(self.scratch / "over") as db:
            for row in blobs(0, self.rows):
                row.id = 1
                db.put(BLOBS, row, durability="os")
                assert db.get(BLOBS, 1) == row
                assert db.count(BLOBS.by_kind) == 1

    def load(self) -> None:
        with opened(self.scratch / "load") as db:
            db.load(BLOBS, blobs(0, self.rows))

    def threads(self) -> None:
        """Commit from writers that wait for each other."""
        with opened(self.scratch / "threads") as db, ThreadPoolExecutor(4) as pool:

            def put(at: int) -> None:
                for row in blobs(at * 1000, self.rows // 4):
                    db.put(BLOBS, row)

            list(pool.map(put, range(4)))

    def opening(self) -> None:
        """Open a database whose tables must all be projected from the log."""
        engine = Engine(self.path)
        family, handle = engine.next_family(b"")
        engine.switch_data(engine.next_name, family, handle)
        del family, handle
        engine.close()
        self.check()

    def opening_beside(self) -> None:
        with opened(self.path) as db:
            for row in blobs(SMALL_ROWS, 10):
                db.put(BLOBS, row)
            with EmbeddedDatabase(self.path, read_only=True) as reader:
                assert spend(reader.scan(BLOBS)) == self.count
                for row in blobs(SMALL_ROWS, 10):
                    db.put(BLOBS, row)
                reader.refresh()
                assert spend(reader.scan(BLOBS)) == self.count

    def window(self) -> None:
        """Fill the window with keys of the maximum size, of many commits."""
        with opened(self.scratch / "keys") as db:
            declare(db, NAMED)
            for at in range(self.rows):
                with db.transaction(durability="os") as tx:
                    for number in range(300):
                        tx.put(NAMED, NAME(id=f"{at}.{number}.".ljust(4000, "x")))

    # maintenance

    def rebuild(self) -> None:
        with opened(self.path) as db:
            db.admin.rebuild()

    def rebuild_into(self) -> None:
        with opened(self.path) as db:
            db.admin.rebuild_into(self.scratch / "into")

    def back_up(self) -> None:
        with opened(self.path) as db:
            backup(db, self.scratch / "kept", hashes=True)

    def restored(self) -> None:
        if not (self.scratch / "kept").exists():
            self.back_up()
        restore(self.scratch / "kept", self.scratch / "restored")

    def verify(self) -> None:
        if not (self.scratch / "kept").exists():
            self.back_up()
        verify_backup(self.scratch / "kept", deep=True)

    def archive(self) -> None:
        with opened(self.path) as db:
            archive(db, self.scratch / "archive")
            assert spend(db.history(BLOBS, SMALL_ROWS)) >= 2
            db.admin.rebuild()

    def prove(self) -> None:
        with opened(self.path) as db:
            prover = LocalProver(db)
            prover.head()

    def index(self) -> None:
        with opened(self.path) as db:
            declare(db, BLOBS_BY_ID)

    # served

    @contextmanager
    def _served(self, path: Path) -> Iterator[RemoteDatabase]:
        with (
            opened(path) as db,
            Server({"blobs": db}) as server,
            RemoteDatabase(server.url("blobs")) as remote,
        ):
            yield remote

    def remote_scan(self) -> None:
        with self._served(self.path) as db:
            assert spend(db.scan(BLOBS)) == self.count
            assert spend(db.scan(BLOBS.by_kind)) == self.count

    def remote_get_many(self) -> None:
        with self._served(self.path) as db:
            some = list(range(SMALL_ROWS, SMALL_ROWS + 10))
            for _ in range(4):
                assert None not in db.get_many(BLOBS, some)

    def follow(self) -> None:
        with opened(self.path) as db:
            Follower(db, SqliteSink(self.scratch / "mirror.db")).run(bounded=True)

    def remote_feed(self) -> None:
        with self._served(self.path) as db:
            assert spend(db.feed(after=0, bounded=True)) > self.rows

    def remote_load(self) -> None:
        with self._served(self.scratch / "remote") as db:
            db.load(BLOBS, blobs(0, self.rows))

    def remote_puts(self) -> None:
        with self._served(self.scratch / "remote_puts") as db:
            for row in blobs(0, self.rows):
                db.put(BLOBS, row)

    def remote_past(self) -> None:
        with self._served(self.path) as db:
            with db.at(seq=db.head - 3) as then:
                assert spend(then.scan(BLOBS)) == self.count
            assert spend(db.past.diff(BLOBS, 3, db.head)) >= self.rows - 1
            assert spend(db.history(BLOBS, SMALL_ROWS)) >= 2
            assert spend(db.past.log(table=BLOBS)) >= self.rows


OPERATIONS = [name for name in vars(Operations) if not name.startswith("_")]


def peak_kib(name: str = "VmHWM:") -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise AssertionError(name)


def _copied(source: str, to: str) -> None:
    """Return a copy with links to the files that RocksDB never changes."""
    os.link(source, to) if source.endswith(".sst") else shutil.copy2(source, to)


def measure(path: Path, rows: int, names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as made:
        small = Operations(Path(made) / "small", 8, Path(made))
        with opened(small.path) as db:
            db.put(BLOBS, BLOB(id=1))
            spend(db.scan(BLOBS))
    gc.collect()
    base = peak_kib("VmRSS:")
    for name in names:
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            copy = Path(scratch) / "db"
            shutil.copytree(path, copy, copy_function=_copied)
            Path("/proc/self/clear_refs").write_text("5")
            getattr(Operations(copy, rows, Path(scratch)), name)()
        sys.stdout.write(f"{name} {(peak_kib() - base) // 1024}\n")


if __name__ == "__main__":
    at, rows, *names = sys.argv[1:]
    if not Path(at).exists():
        fill(Path(at), int(rows))
    measure(Path(at), int(rows), names or OPERATIONS)
