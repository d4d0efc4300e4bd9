"""Forked children, and programs that end without closing: no hang, no crash, and no loss."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from everlog.store.database import Database
from tests.crash import disk
from tests.store.models import ITEMS, Item, declare

ROOT = Path(__file__).parents[2]
START = """
import atexit, multiprocessing, os, signal, sys, threading
import everlog
from everlog.store import process
from everlog.store.errors import ClosedError, OpenError
from tests.store.models import ITEMS, Item, declare, items
path = sys.argv[1]
db = everlog.open(path + "/db", durability=sys.argv[2])
declare(db, ITEMS)
db.load(ITEMS, items(1, 200))
acknowledged = os.open(path + "/acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def write(first):
    try:
        for number in range(first, first + 1_000_000):
            db.put(ITEMS, Item(id=number))
            os.write(acknowledged, b"%d\\n" % number)
    except ClosedError:
        pass

def child(run):
    number = os.fork()
    if not number:
        signal.alarm(20)
        run()
        sys.exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])

def writing(threads=3):
    for n in range(1, threads + 1):
        threading.Thread(target=write, args=(n * 1_000_000,), daemon=True).start()
    while os.fstat(acknowledged).st_size < 100:  # all threads are running
        db.count(ITEMS)
"""


def run(
    script: str, path: Path, durability: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", START + textwrap.dedent(script), str(path), durability],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env=os.environ | (environment or {}),
    )


def whole(path: Path) -> None:
    """Check the database, and that it has all acknowledged commits."""
    with Database(path / "db") as db:
        assert not list(db.admin.check())
        for line in (path / "acknowledged").read_text().splitlines():
            assert db.get(ITEMS, int(line)) is not None, line


@pytest.mark.long
@pytest.mark.parametrize("durability", ["os", "sync"])
def test_children_end_by_themselves_and_may_have_databases_of_their_own(
    tmp_path: Path, durability: str
) -> None:
    done = run(
        """
        memory = everlog.open("memory:")
        snapshot, reading, records = db.snapshot(), iter(db.scan(ITEMS)), db.log.scan()
        next(reading), next(records)
        writing()

        def refused():
            read = lambda: snapshot.get(ITEMS, 1)
            put, get = lambda: db.put(ITEMS, Item(id=1)), lambda: db.get(ITEMS, 1)
            for use in (put, get, read, db.snapshot, db.admin.status):
                try:
                    use()
                except ClosedError as error:
                    assert "was opened before this process was forked; open " in str(error)
                else:
                    raise AssertionError
            db.close()
            memory.close()

        def lets_go():
            global db, snapshot, reading, records, memory
            del db, snapshot, reading, records, memory

        def has_its_own():
            own = everlog.open(path + "/own")
            declare(own, ITEMS)
            own.load(ITEMS, items(1, 500))
            own.engine.flush()
            assert own.count(ITEMS) == 500

            def grandchild():
                with everlog.open(path + "/grandchild") as other:
                    declare(other, ITEMS)
                    other.load(ITEMS, items(1, 500))
                    other.engine.flush()

            assert child(grandchild) == 7

        def reads_beside():
            with everlog.open(path + "/db", read_only=True) as beside:
                assert beside.count(ITEMS) >= 200
            try:
                everlog.open(path + "/db")
            except OpenError as error:
                assert f"is open for writing by process {os.getppid()}" in str(error)
            else:
                raise AssertionError

        for one in (refused, lets_go, has_its_own, reads_beside):
            assert child(one) == 7, one
        context = multiprocessing.get_context("fork")
        with context.Pool(2) as pool:
            assert pool.map(abs, range(-9, 0)) == list(range(9, 0, -1))
        declare(memory, ITEMS)
        memory.load(ITEMS, items(1, 500))
        assert memory.count(ITEMS) == 500
        assert next(reading)
        db.engine.flush()
        db.engine.compact_data(b"", b"\\xff")
        sys.exit(5)
        """,
        tmp_path,
        durability,
    )
    assert done.returncode == 5, done.stderr
    said = [line for line in done.stderr.splitlines() if "DeprecationWarning" not in line]  # from 3.12 on
    assert not [line for line in said if "os.fork()" not in line]
    whole(tmp_path)
    for own in ("own", "grandchild"):
        with Database(tmp_path / own) as db:
            assert db.count(ITEMS) == 500
            assert not list(db.admin.check())


def test_a_child_without_the_threads_of_rocksdb_is_refused_and_ends(tmp_path: Path) -> None:
    done = run(
        """
        process.PARK_S = 0.0
        process._POOLS = {name: lambda *_: None for name in process._POOLS}  # as if they did not end

        def refused():
            with everlog.open(path + "/db", read_only=True) as beside:
                assert beside.count(ITEMS) == 200
            try:
                everlog.open(path + "/own")
            except OpenError as error:
                assert "was forked while RocksDB wrote in its parent" in str(error)
            else:
                raise AssertionError
            print("to the end")

        sys.exit(5 if child(refused) == 7 else 6)
        """,
        tmp_path,
        "sync",
    )
    assert (done.returncode, done.stdout) == (5, "to the end\n"), done.stderr


@pytest.mark.skipif(disk.library() is None, reason=disk.NO_COMPILER)
def test_a_child_of_a_process_whose_disk_was_full_is_refused_until_writing_resumes(tmp_path: Path) -> None:
    """A thread of RocksDB waits for space, and queues a flush. A child would run it before its own."""
    full = tmp_path / "full"
    done = run(
        """
        import pathlib, time
        from everlog.store.errors import DiskError

        def own():
            with everlog.open(path + "/own") as db:
                declare(db, ITEMS)
                db.put(ITEMS, Item(id=1))
                db.engine.flush()

        def refused():
            try:
                own()
            except OpenError as error:
                assert "was forked while RocksDB wrote in its parent" in str(error)
                return
            raise AssertionError

        def resumed():
            try:
                db.put(ITEMS, Item(id=1))
            except DiskError:
                return False
            return True

        full = pathlib.Path(path + "/full")
        full.touch()
        while resumed():
            pass
        assert child(refused) == 7
        full.unlink()
        while not resumed():
            time.sleep(0.05)
        assert child(own) == 7
        """,
        tmp_path,
        "os",
        disk.filling(tmp_path / "db", full),
    )
    assert done.returncode == 0, done.stderr


def test_work_that_another_thread_begins_at_a_fork_is_noticed_in_the_child(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        declare(db, ITEMS)
        assert db.engine.is_idle()
        assert not db.engine.has_worked()
        db.put(ITEMS, Item(id=1))
        assert db.engine.has_worked()
        assert db.engine.is_idle()
        assert not db.engine.has_worked()


@pytest.mark.long
def test_forks_beside_threads_that_write_at_full_speed_wait_for_nothing(tmp_path: Path) -> None:
    """A write that waits for a flush keeps the interpreter's lock: RocksDB needs its threads then."""
    done = run(
        """
        import time
        large = [Item(id=number, text="x" * (3 << 20)) for number in range(20)]

        def write_large():
            while True:
                for one in large:
                    db.put(ITEMS, one)

        def own():
            try:
                with everlog.open(path + "/own") as db:
                    declare(db, ITEMS)
                    db.engine.flush()
            except OpenError:
                pass

        for _ in range(2):
            threading.Thread(target=write_large, daemon=True).start()
        signal.alarm(40)
        until = time.monotonic() + 5
        while time.monotonic() < until:
            assert child(own) == 7
        os._exit(0)
        """,
        tmp_path,
        "os",
    )
    assert done.returncode == 0, done.stderr


def test_a_child_needs_no_lock_that_another_thread_of_its_parent_had(tmp_path: Path) -> None:
    done = run(
        """
        from everlog.feed import tail
        from everlog.store.rocks import files

        def free():
            with everlog.open("memory:") as own:
                declare(own, ITEMS)
                own.put(ITEMS, Item(id=1))
                assert [one.seq for one in own.feed(bounded=True)]

        held, over = threading.Event(), threading.Event()

        def hold():
            with files._lock, tail._lock:
                held.set()
                over.wait()

        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        sys.exit(5 if child(free) == 7 else 6)
        """,
        tmp_path,
        "os",
    )
    assert done.returncode == 5, done.stderr


SCANNING = (
    "threading.Thread(target=lambda: [list(db.scan(ITEMS)) for _ in range(10**6)], daemon=True).start()"
)
OPENING = """
def reopen():
    while True:
        try:
            everlog.open(path + "/db").close()
        except OpenError:
            pass
        except ClosedError:
            return

threading.Thread(target=reopen, daemon=True).start()
sys.exit(5)
"""
LATE = """
import atexit, threading
closed, told = threading.Event(), threading.Event()

@atexit.register  # registered before everlog's handler, so it is called after it
def late():
    closed.set()
    told.wait(20)

import sys
import everlog
from everlog.store.errors import ClosedError

def other():
    closed.wait()
    try:
        everlog.open(sys.argv[1] + "/db")
    except ClosedError as error:
        print(error, flush=True)
    told.set()

everlog.open(sys.argv[1] + "/first")
threading.Thread(target=other, daemon=True).start()
"""
DROPPING = """
import os, sys, threading
from pathlib import Path
from everlog.store.rocks.engine import Engine

engine, begun = Engine(Path(sys.argv[1])), threading.Event()
family, _ = engine.create_family("side")
for number in range(55):
    family.put(b"%d" % number, os.urandom(100_000))

def drop():
    begun.set()
    engine.drop_family("side", family)  # RocksDB flushes 5.5 MB first

threading.Thread(target=drop, daemon=True).start()
begun.wait()
sys.exit(5)
"""
LOADING = "threading.Thread(target=lambda: db.load(ITEMS, items(1, 2000))).start()"


@pytest.mark.parametrize(
    ("durability", "leaves", "code"),
    [
        ("os", "sys.exit(5)", 5),
        ("sync", f"{SCANNING}; held = [iter(db.scan(ITEMS)), db.snapshot()]; next(held[0]); sys.exit(5)", 5),
        *(
            pytest.param(durability, leaves, code, marks=pytest.mark.long)
            for durability in ("os", "sync")
            for leaves, code in (
                ("raise RuntimeError('bye')", 1),
                ("", 0),
                ("atexit.register(lambda: db.put(ITEMS, Item(id=1))); sys.exit(5)", 5),
                ("atexit.register(db.close); sys.exit(5)", 5),
                (f"{LOADING}; sys.exit(5)", 5),
                (OPENING, 5),
            )
        ),
    ],
)
def test_a_program_that_ends_without_closing_ends_as_it_says_and_loses_nothing(
    tmp_path: Path, durability: str, leaves: str, code: int
) -> None:
    done = run(f"writing()\nthreading.excepthook = lambda _: None\n{leaves}\n", tmp_path, durability)
    assert done.returncode == code, done.stderr
    assert "Fatal" not in done.stderr
    whole(tmp_path)


def test_no_thread_opens_a_database_once_its_program_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE, str(tmp_path)], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "this process is ending, and its threads open no database any more" in done.stdout


def test_a_program_that_ends_while_a_thread_drops_tables_ends_as_it_says(tmp_path: Path) -> None:
    done = [
        subprocess.run(
            [sys.executable, "-c", DROPPING, str(tmp_path / f"{n}")],
            check=False,
            capture_output=True,
            timeout=60,
        )
        for n in range(2)
    ]
    assert [(one.returncode, one.stderr) for one in done] == [(5, b"")] * 2


def test_a_server_answers_its_own_process_until_the_last_thread_of_that_has_ended(tmp_path: Path) -> None:
    done = run(
        """
        from everlog.rpc.server.server import Server
        remote = everlog.open(Server({"x": db}, token="t").start().url("x") + "?token=t")
        main = threading.main_thread()

        def put():
            main.join()
            for number in range(5_000_000, 5_000_100):
                remote.put(ITEMS, Item(id=number))
                os.write(acknowledged, b"%d\\n" % number)
            print("all", remote.count(ITEMS), flush=True)

        threading.Thread(target=put).start()
        """,
        tmp_path,
        "os",
    )
    assert (done.returncode, done.stdout) == (0, "all 300\n"), done.stderr
    assert not done.stderr
    whole(tmp_path)


def test_a_program_that_ends_without_stopping_its_server_ends_as_it_says(tmp_path: Path) -> None:
    done = run(
        """
        from everlog.rpc.server.server import Server
        server = Server({"x": db}, token="t").start()
        remote = everlog.open(server.url("x") + "?token=t")

        def put():
            for number in range(5_000_000, 6_000_000):
                remote.put(ITEMS, Item(id=number))
                os.write(acknowledged, b"%d\\n" % number)

        threading.excepthook = lambda _: None
        threading.Thread(target=put, daemon=True).start()
        for _ in zip(range(20), db.feed(after=db.head), strict=False):
            pass
        sys.exit(5)
        """,
        tmp_path,
        "sync",
    )
    assert done.returncode == 5, done.stderr
    assert not done.stderr
    whole(tmp_path)


def test_what_was_begun_before_a_fork_is_refused_in_the_child_and_goes_on_in_its_parent(
    tmp_path: Path,
) -> None:
    done = run(
        """
        db.load(ITEMS, [Item(id=number, text="x" * 2000) for number in range(1, 1000)])
        for number in range(50):
            db.put(ITEMS, Item(id=1, text=f"{number}" * 1000))
        db.at(seq=5).get(ITEMS, 1)
        db.tables.flush()
        db.engine.flush()  # otherwise everything would be in memory, which a child has
        moment, snapshot, tx, feed = db.at(seq=50), db.snapshot(), db.transaction(), db.feed(0)
        tx.get(ITEMS, 1)
        tx.put(ITEMS, Item(id=7))
        begun = {
            "scan": db.scan(ITEMS), "backwards": db.scan(ITEMS, reverse=True),
            "snapshot": snapshot.scan(ITEMS),
            "transaction": tx.scan(ITEMS), "moment": moment.scan(ITEMS), "history": db.history(ITEMS, 1),
            "diff": db.past.diff(ITEMS, 1, db.head), "records": db.log.scan(), "feed": feed,
        }
        begun = {name: iter(one) for name, one in begun.items()}
        first = {name: next(one) for name, one in begun.items()}
        db.put(ITEMS, Item(id=2))
        uses = {name: lambda one=one: [row for row in one] for name, one in begun.items()}
        uses |= {
            "get of a snapshot": lambda: snapshot.get(ITEMS, 500), "get": lambda: tx.get(ITEMS, 500),
            "get of a moment": lambda: moment.get(ITEMS, 500), "commit": tx.commit,
            "new feed": lambda: db.feed(0),
            "check": lambda: list(db.admin.check()), "consumers": lambda: list(db.consumers),
            "never begun": lambda: next(iter(late)), "schema": lambda: db.schema_at(3),
        }
        late = db.feed(0)

        def refused():
            for name, use in uses.items():
                try:
                    use()
                except ClosedError as error:
                    assert "opened before this process was forked; open " in str(error), name
                else:
                    raise AssertionError(name)

        assert child(refused) == 7
        del begun["feed"], begun["history"], begun["records"]
        for name, one in begun.items():
            assert sum(1 for _ in one) > 100, name
        assert sum(1 for _ in db.history(ITEMS, 1)) > 50
        db.close()
        sys.exit(5)
        """,
        tmp_path,
        "sync",
    )
    assert done.returncode == 5, done.stderr


def test_a_client_in_a_child_is_refused_and_the_child_ends(tmp_path: Path) -> None:
    done = run(
        """
        from everlog.rpc.server.server import Server
        server = Server({"x": db}, token="t").start()
        remote = everlog.open(server.url("x") + "?token=t")
        remote.put(ITEMS, Item(id=1))

        def refused():
            status = remote.admin.status
            for use in (lambda: remote.put(ITEMS, Item(id=2)), lambda: remote.get(ITEMS, 1), status):
                try:
                    use()
                except ClosedError as error:
                    assert "was opened before this process was forked; open it in the child" in str(error)
                else:
                    raise AssertionError
            remote.close()

        assert child(refused) == 7
        remote.put(ITEMS, Item(id=3))
        server.stop()
        sys.exit(5)
        """,
        tmp_path,
        "sync",
    )
    assert done.returncode == 5, done.stderr


TOLD = """
import os, sys
from everlog.store import process
from everlog.store.database import Database

class Failing:
    def forked(self):
        raise RuntimeError("of another")

failing = [Failing() for _ in range(20)]  # a set has no order: some come before the database
for one in failing:
    process.notify_in_child(one)
with Database(sys.argv[1]) as db:
    child = os.fork()
    if not child:
        os._exit(0 if db.core.closed else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_a_child_is_told_of_each_database_though_one_object_fails(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TOLD, str(tmp_path / "db")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "of another" in done.stderr  # and Python reports it
