"""Bad places for a database: read-only, without file descriptors, with damaged small files.

The result is correct, or an everlog error; acknowledged commits are present when the place is good again.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from everlog.store.database import Database
from everlog.store.errors import Error
from everlog.store.rocks.files import COPIED
from everlog.store.upkeep.repair import repair
from tests.store.damaging import Image, examine, make_images
from tests.store.models import ITEMS, Item, items, open_flights
from tests.store.rocks.test_damage import cut, flip, gone, zero

ROOT = Path(__file__).parents[2]
TORTURE = bool(os.environ.get("EVERLOG_TORTURE_S"))
SMALL = ("EVERLOG", "HEAD", "OWNER", "db/OPTIONS-*", "db/IDENTITY", "db/rocksdict-config.json", "db/LOG")

READS = """
import json, sys
from everlog.store.database import Database
from everlog.store.errors import Error
from tests.store.models import ITEMS, Item
said = []
for read_only in (False, True):
    try:
        with Database(sys.argv[1], read_only=read_only) as db:
            said.append(len(list(db.scan(ITEMS))))
            if not read_only:
                db.put(ITEMS, Item(id=9))
    except Error as error:
        said.append(f"{type(error).__name__}: {error}")
print(json.dumps(said))
"""
WRITES = """
import json, os, resource, sys
from everlog.store.database import Database
from everlog.store.errors import Error
from tests.store.models import ITEMS, Item, declare
path, spare = sys.argv[1], int(sys.argv[2])
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
acknowledged, said, db = [], [], None
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1 + spare, hard))
for number in range(100, 160):
    try:
        db = db or Database(path)
        db.put(ITEMS, Item(id=number))
        acknowledged.append(number)
        assert db.get(ITEMS, number) is not None
        if not number % 5:
            db.tables.flush()
            db.engine.flush()
        if not number % 20:
            db.admin.rebuild()
        assert [row.id for row in db.scan(ITEMS, start=100)] == acknowledged
    except Error as error:
        said.append(f"{type(error).__name__}: {error}")
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
if db is not None:
    db.close()
print(json.dumps([acknowledged, said]))
"""
WORKS = """
import json, os, resource, sys, time
from everlog.store.database import Database
from everlog.store.errors import Error
from everlog.store.rocks.files import Temporary
from tests.store.models import ITEMS, Item
path, spare = sys.argv[1], int(sys.argv[2])
db = Database(path)
db.put(ITEMS, Item(id=100))
db.tables.flush()
while not db.engine.is_idle():  # a flush or compaction of RocksDB's own that finds none ends writing
    time.sleep(0.001)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
taken = [os.open(os.devnull, os.O_RDONLY)]
resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 40, hard))
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
for number in taken[:spare]:
    os.close(number)
works = [db.engine.flush, db.admin.rebuild, lambda: db.engine.compact_log(bytes(8))]
works.append((lambda: db.engine.create_family("x")) if spare else (lambda: Temporary("everlog-x-")))
said = []
for work in works:
    try:
        work()
        said.append("done")
    except Error as error:
        said.append(f"{type(error).__name__}: {error}")
for number in taken[spare:]:
    os.close(number)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
counts = [db.admin.rebuild()["items"].rows, db.count(ITEMS)]
db.engine.flush()
db.put(ITEMS, Item(id=100))
counts.append(len(list(db.scan(ITEMS))))
print(json.dumps([said, counts, list(db.admin.check())]))
db.close()
"""


def told(script: str, *words: object, **options: Any) -> Any:
    """Return the JSON that such a process prints; any other end is a finding."""
    command = [sys.executable, "-c", script, *map(str, words)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=100, cwd=ROOT, **options
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Image, Image]:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("how", [flip, cut, zero, gone] if TORTURE else [flip, gone])
def test_a_small_file_that_is_damaged_is_told_or_does_not_matter(
    images: tuple[Image, Image], tmp_path: Path, name: str, how: Any
) -> None:
    for at, image in enumerate(images):
        chance = random.Random(f"{name} {how.__name__} {at}")
        path = image.copy(tmp_path / str(at))
        found = sorted(path.glob(name))
        if not found or not found[0].stat().st_size:
            continue
        how(found[0], chance)
        examine(path, image, read_only=bool(at))
        with suppress(Error):
            examine(path, image)


@pytest.mark.skipif(sys.platform != "linux", reason="file descriptors are counted as Linux does")
@pytest.mark.parametrize("spare", range(0, 48, 1 if TORTURE else 12))
def test_without_file_descriptors_nothing_is_wrong_and_nothing_lost(tmp_path: Path, spare: int) -> None:
    path = tmp_path / "db"
    with open_flights(path, ITEMS) as db:
        db.load(ITEMS, items(0, 50))
    acknowledged, said = told(WRITES, path, spare)
    with Database(path) as db:
        assert list(db.admin.check()) == []
        found = [row.id for row in db.scan(ITEMS, start=100)]
        assert set(acknowledged) <= set(found)
        assert len(found) - len(acknowledged) <= len(said)


@pytest.mark.skipif(sys.platform != "linux", reason="file descriptors are counted as Linux does")
@pytest.mark.parametrize(
    "spare", [2, *(pytest.param(one, marks=pytest.mark.long) for one in (0, 1, 3, 4, 5, 6))]
)
def test_work_that_found_no_file_descriptors_is_done_when_there_are_some(tmp_path: Path, spare: int) -> None:
    path = tmp_path / "db"
    with open_flights(path, ITEMS) as db:
        db.load(ITEMS, items(0, 50))
    said, counts, problems = told(WORKS, path, spare)
    assert [words.split(":")[0] for words in said] == ["DiskError"] * 4, said
    assert all("no file descriptors are left" in words or "no temporary" in words for words in said)
    assert (counts, problems) == ([52, 52, 52], [])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory that `freeze` makes read-only for all users: its own file system if this user may
    mount one, otherwise by permissions.
    """
    path = tmp_path / "place"
    path.mkdir()
    if os.getuid():
        yield path
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("who may write everywhere needs a file system to be kept out of, and none can be mounted")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def freeze(path: Path, *, frozen: bool) -> None:
    if not os.getuid():
        how = "ro" if frozen else "rw"
        subprocess.run(["mount", "-o", f"remount,{how}", str(path)], check=True)
        return
    for one in (path, *path.rglob("*")):
        one.chmod((0o555 if frozen else 0o755) if one.is_dir() else (0o444 if frozen else 0o644))


def test_a_directory_that_cannot_be_written_is_told_and_read(place: Path) -> None:
    path = place / "db"
    with open_flights(path, ITEMS) as db:
        db.load(ITEMS, items(0, 50))
    freeze(place, frozen=True)
    try:
        written, read = told(READS, path)
        tried = repair(path, dry_run=True)
    finally:
        freeze(place, frozen=False)
    assert isinstance(written, str), "it was opened for writing"
    assert read == 51
    assert tried.records == tried.known
    with Database(path) as db:
        assert list(db.admin.check()) == []
        assert db.get(ITEMS, 9) == Item(id=9, text="text 9", n=-9)


@pytest.fixture
def hidden(place: Path) -> Iterator[Path]:
    """Return a database in which a write is refused, although access, mode and free space promise it: as on
    a file system that became read-only after an error.
    """
    path = place / "db"
    with open_flights(path, ITEMS) as db:
        db.load(ITEMS, items(0, 50))
    own = path / "db" / COPIED
    if os.getuid():
        own.chmod(0o400)
        yield path
        return
    for how in (["--bind", str(own)], ["-o", "remount,ro,bind"]):
        subprocess.run(["mount", *how, str(own)], check=True)
    yield path
    subprocess.run(["umount", str(own)], check=True)


def test_a_place_that_refuses_writes_without_saying_so_is_read(hidden: Path) -> None:
    assert os.access(hidden / "db", os.W_OK)
    for _ in range(2):
        with Database(hidden, read_only=True) as db:
            assert db.count(ITEMS) == 51
            assert db.refresh() == db.head
            assert list(db.admin.check()) == []


@pytest.fixture
def seen(place: Path, tmp_path: Path) -> Iterator[Path]:
    """Return the same place as seen by a user who may only read."""
    path = tmp_path / "seen"
    path.mkdir()
    for how in (["--bind", str(place)], ["-o", "remount,ro,bind"]):
        if subprocess.run(["mount", *how, str(path)], check=False, capture_output=True).returncode:
            pytest.skip(
                "a place that one may write and another may only read needs a mount, and none can be made"
            )
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_who_may_only_read_follows_what_another_writes(place: Path, seen: Path) -> None:
    with open_flights(place / "db", ITEMS) as db:
        db.load(ITEMS, items(1, 50))
        with Database(seen / "db", read_only=True) as reader:
            assert reader.count(ITEMS) == 50
            for turn in range(2, 6):
                db.load(ITEMS, items(turn * 50 - 49, turn * 50))
                if turn % 2:
                    db.admin.rebuild()  # other files, and another column family
                db.tables.flush()
                db.engine.flush()
                db.put(ITEMS, Item(id=1, text=f"turn {turn}"))
                assert reader.refresh() == db.head
                assert reader.get(ITEMS, 1) == Item(id=1, text=f"turn {turn}")
                assert reader.count(ITEMS) == turn * 50
            assert [version.op for version in reader.history(ITEMS, 1)] == ["put"] * 5
            assert list(reader.admin.check()) == []
