"""Damage on disk: a right answer, or an error that names the place. Never a wrong one, never less."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from everlog.store import head
from everlog.store.database import Database
from everlog.store.errors import CorruptionError
from everlog.store.repair import repair
from tests.store.damaging import Image, examine, make_images, model
from tests.store.models import AIRPORTS, ITEMS

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
    (path / head.OWNER).unlink(missing_ok=True)
    try:
        done = repair(path)
    except CorruptionError:
        assert not found.read, "records could be read, and were not saved"
        return
    with Database(path) as db:
        assert list(db.check()) == []
        assert db.head == done.records
        assert db.log.read(0, 1 << 30)[0] == b"".join(image.records[: done.records])
        if "items" in db.schema.tables:
            expected = model(image.records[: done.records])
            assert {row.id for row in db.scan(ITEMS)} == set(expected["items"])
            assert {row.faa for row in db.scan(AIRPORTS)} == set(expected["airports"])
    assert done.records >= found.read


def test_a_write_ahead_log_that_is_gone_is_told_by_head(images: tuple[Image, Image], tmp_path: Path) -> None:
    image = images[1]
    path = image.copy(tmp_path / "db")
    for log in (path / "db").glob("*.log"):
        log.unlink()
    with pytest.raises(CorruptionError, match=f"on disk up to record {len(image.records)} .*its end is lost"):
        Database(path)
