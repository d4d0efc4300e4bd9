"""Damage on disk: a correct result, or an error that names the place. Never a wrong or incomplete result."""

from __future__ import annotations

import contextlib
import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from everlog.store.database import Database
from everlog.store.errors import CorruptionError
from everlog.store.rocks import files, manifest
from everlog.store.upkeep.repair import repair
from tests.store.damaging import Image, examine, make_images, model
from tests.store.models import AIRPORTS, ITEMS, items, open_flights

Damage = Callable[[Path, random.Random], None]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Image, Image]:
    return make_images(tmp_path_factory.mktemp("images"))


def some(path: Path, pattern: str, chance: random.Random) -> Path:
    return chance.choice(sorted((path / "db").glob(pattern)))


def flip(file: Path, chance: random.Random) -> None:
    raw = bytearray(file.read_bytes())
    raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    file.write_bytes(raw)


def cut(file: Path, chance: random.Random) -> None:
    raw = file.read_bytes()
    file.write_bytes(raw[: chance.randrange(len(raw))])


def zero(file: Path, chance: random.Random) -> None:
    raw = bytearray(file.read_bytes())
    start = chance.randrange(len(raw))
    length = min(len(raw) - start, chance.randrange(1, 9000))
    raw[start : start + length] = bytes(length)
    file.write_bytes(raw)


def gone(file: Path, _: random.Random) -> None:
    file.unlink()


@pytest.mark.parametrize("seed", range(int(os.environ.get("EVERLOG_SEEDS", "3"))))
@pytest.mark.parametrize("how", [flip, cut, zero, gone])
@pytest.mark.parametrize("what", ["0 *.sst", "1 *.sst", "1 *.log", "0 MANIFEST-*", "1 CURRENT"])
def test_damage_is_told_and_can_be_repaired(
    images: tuple[Image, Image], tmp_path: Path, what: str, how: Damage, seed: int
) -> None:
    chance = random.Random(f"{what} {how.__name__} {seed}")
    which, pattern = what.split()
    image = images[int(which)]
    path = image.copy(tmp_path / "db")
    how(some(path, pattern, chance), chance)
    found = examine(path, image, read_only=bool(seed % 2))
    if found.whole:
        return
    (path / files.OWNER).unlink(missing_ok=True)
    try:
        done = repair(path)
    except CorruptionError:
        assert not found.read, "records could be read, and were not saved"
        return
    with Database(path) as db:
        assert list(db.admin.check()) == []
        assert db.head == done.records
        assert db.log.read(0, 1 << 30)[0] == b"".join(image.records[: done.records])
        if "items" in db.schema.tables:
            expected = model(image.records[: done.records])
            assert {row.id for row in db.scan(ITEMS)} == set(expected["items"])
            assert {row.faa for row in db.scan(AIRPORTS)} == set(expected["airports"])
    assert done.records >= found.read


@pytest.mark.parametrize("read_only", [True, False])
def test_a_write_ahead_log_that_is_gone_is_told(
    images: tuple[Image, Image], tmp_path: Path, *, read_only: bool
) -> None:
    path = images[1].copy(tmp_path / "db")
    for log in (path / "db").glob("*.log"):
        log.unlink()
    for _ in range(2):  # the first opening creates no other
        with pytest.raises(CorruptionError, match=r"expected the write-ahead log \d+\.log"):
            Database(path, read_only=read_only)


def test_a_write_ahead_log_that_was_emptied_is_told_by_head(
    images: tuple[Image, Image], tmp_path: Path
) -> None:
    image = images[1]
    path = image.copy(tmp_path / "db")
    for log in (path / "db").glob("*.log"):
        log.write_bytes(b"")
    with pytest.raises(CorruptionError, match=f"on disk up to record {len(image.records)} .*its end is lost"):
        Database(path)


def said_of(path: Path) -> str:
    """Return the first messages of a reader and of `check`."""
    try:
        with Database(path, read_only=True) as db:
            return next(iter(db.admin.check()), "")
    except CorruptionError as error:
        return str(error)


def test_every_table_file_that_is_gone_or_has_another_size_is_named(
    images: tuple[Image, Image], tmp_path: Path
) -> None:
    for file in sorted((images[0].path / "db").glob("*.sst")):
        path = images[0].copy(tmp_path / "db")
        here = path / "db" / file.name
        here.unlink()
        missing = re.escape(f"{here} is missing: MANIFEST-")
        assert re.match(missing, said_of(path))
        with pytest.raises(CorruptionError, match=missing):
            Database(path)
        with contextlib.suppress(CorruptionError):  # the first record was in it
            assert re.match(missing, repair(path, dry_run=True).files[0])
        here.write_bytes(file.read_bytes()[:-1])
        assert re.match(rf"{re.escape(str(here))}: expected [\d,]+ bytes as MANIFEST-", said_of(path))


def test_every_flipped_byte_of_a_table_file_is_found(images: tuple[Image, Image], tmp_path: Path) -> None:
    path = images[0].copy(tmp_path / "db")
    assert list(manifest.problems(path)) == []
    for file in sorted((path / "db").glob("*.sst")):
        raw = file.read_bytes()
        for at in [*range(0, len(raw), max(1, len(raw) // 60)), *range(len(raw) - 53, len(raw))]:
            file.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
            found = list(manifest.problems(path))
            assert len(found) == 1, at
            assert found[0].startswith(f"{file} is damaged: "), at
        file.write_bytes(raw)


def test_every_flipped_byte_of_a_manifest_is_found(images: tuple[Image, Image], tmp_path: Path) -> None:
    path = images[0].copy(tmp_path / "db")
    [file] = (path / "db").glob("MANIFEST-*")
    raw = file.read_bytes()
    for at in range(0, len(raw), 29):
        file.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        assert list(manifest.problems(path)), at


@pytest.mark.parametrize("pattern", ["HEAD", "db/IDENTITY", "db/OPTIONS-*", "db/CURRENT", "db/MANIFEST-*"])
def test_every_other_file_that_is_gone_is_named(
    images: tuple[Image, Image], tmp_path: Path, pattern: str
) -> None:
    path = images[0].copy(tmp_path / "db")
    for file in path.glob(pattern):
        file.unlink()
    assert Path(pattern).name.rstrip("-*") in said_of(path)


def test_an_index_of_many_blocks_is_read(tmp_path: Path) -> None:
    """The index of a large table file is compressed."""
    with open_flights(tmp_path / "db", ITEMS) as db:
        db.load(ITEMS, items(0, 30_000))
    assert max(file.stat().st_size for file in (tmp_path / "db" / "db").glob("*.sst")) > 500_000
    assert list(manifest.problems(tmp_path / "db")) == []
