"""The database as of a record or a time: arguments, refusals, and the place of the version index."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from everlog.store.database import Database
from everlog.store.errors import ClosedError, CorruptionError, CursorError, RowError, SchemaError
from everlog.store.history.version_index import FAMILY
from everlog.store.progress import Progress
from tests.store.models import AIRPORTS, ITEMS, SEATS, Item, airport, declare, items, open_flights
from tests.store.upkeep.test_expiry import Time

Opener = Callable[..., Database]


def test_a_row_is_what_it_was_after_each_commit(db: Database) -> None:
    seqs = [db.put(AIRPORTS, airport("JFK", city)).seq for city in ("Idlewild", "New York")]
    seqs.append(db.delete(AIRPORTS, "JFK").seq)
    found = [db.at(seq=seq).get(AIRPORTS, "JFK") for seq in (seqs[0] - 1, *seqs)]
    assert [row and row.city for row in found] == [None, "Idlewild", "New York", None]
    assert db.at(seq=seqs[1]).version(AIRPORTS, "JFK") == seqs[1]


def test_a_moment_is_repeatable_and_knows_when_it_was(db: Database) -> None:
    first = db.put(AIRPORTS, airport("JFK", "Idlewild"))
    with db.at(seq=first.seq) as moment:
        before = list(moment.scan(AIRPORTS)), moment.hashes()
        db.put(AIRPORTS, airport("JFK", "New York"))
        db.put(AIRPORTS, airport("LGA", "New York"))
        assert (list(moment.scan(AIRPORTS)), moment.hashes()) == before
        assert (moment.seq, moment.time_ns) == (first.seq, first.time_ns)
    with pytest.raises(ClosedError):
        moment.get(AIRPORTS, "JFK")


def test_the_hashes_of_now_are_those_of_the_newest_record(db: Database) -> None:
    db.load(ITEMS, items(1, 3000))
    db.put(ITEMS, Item(id=7, text="other"))
    assert db.at(seq=db.head).hashes() == db.admin.hashes()
    assert list(db.at(seq=db.head).scan(ITEMS, reverse=True)) == list(db.scan(ITEMS, reverse=True))


def test_a_time_means_the_newest_record_at_or_before_it(opening: Opener) -> None:
    time = Time()  # the machine's clock may be set back, and then a record has the time of the previous one
    db, made = opening(clock=time()), []
    for n in range(20):
        time.pass_(0 if n % 4 == 3 else 70_001)
        made.append(db.put(ITEMS, Item(id=1, n=n)))
    assert len({result.time_ns for result in made}) == 15
    for result in made:
        assert db.past.position(time=result.time_ns) == max(
            other.seq for other in made if other.time_ns == result.time_ns
        )
        assert db.past.position(time=result.time_ns - 1) < result.seq
    while made[-1].time_ns < made[0].time_ns + 2_000_000:
        time.pass_(99_999)
        made.append(db.put(ITEMS, Item(id=1, n=99)))
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=made[0].time_ns // 1000 + 1000)
    expected = max(one.seq for one in made if one.time_ns < made[0].time_ns // 1000 * 1000 + 1_000_001)
    for one in (moment, moment.isoformat(), moment.replace(tzinfo=None)):
        assert db.past.position(time=one) == expected


def test_what_was_never_is_refused_with_the_reason(db: Database) -> None:
    for seq, reason in ((0, "before the first record"), (db.head + 1, "in the future")):
        with pytest.raises(CursorError, match=reason):
            db.at(seq=seq)
    with pytest.raises(CursorError, match="in the future"):
        db.at(time=datetime.now(UTC) + timedelta(hours=1))
    with pytest.raises(CursorError, match="the log begins with record 1"):
        db.at(time="2001-01-01")
    with pytest.raises(RowError, match=r"expected a time like 2026-01-05T09:30Z, .*, found 'noon'"):
        db.at(time="noon")
    with pytest.raises(RowError, match="either a seq or a time"):
        db.at()
    with pytest.raises(SchemaError, match="there was no table 'airports' at record 1"):
        db.at(seq=1).get(AIRPORTS, "JFK")


def test_a_table_that_was_dropped_is_read_as_of_when_it_was_there(opening: Opener) -> None:
    db = opening(AIRPORTS, ITEMS)
    put = db.put(ITEMS, Item(id=1, text="kept"))
    declare(db, drop=["items"])
    assert [row.text for row in db.at(seq=put.seq).scan(ITEMS)] == ["kept"]
    with pytest.raises(SchemaError, match="there was no table"):
        db.at(seq=db.head).get(ITEMS, 1)
    declare(db, ITEMS)  # another table with that name
    assert db.at(seq=db.head).get(ITEMS, 1) is None
    assert db.at(seq=put.seq).count(ITEMS) == 1


def test_an_index_answers_by_what_rows_were_then(db: Database) -> None:
    for faa, city in (("JFK", "New York"), ("LGA", "New York")):
        db.put(AIRPORTS, airport(faa, city))
    last = db.put(AIRPORTS, airport("BOS", "Boston"))
    db.put(AIRPORTS, airport("JFK", "Boston"))
    moment = db.at(seq=last.seq)
    assert [row.faa for row in moment.scan(AIRPORTS.by_city, "New York")] == ["JFK", "LGA"]
    assert moment.count(AIRPORTS.by_city, "New York") == 2
    assert [row.faa for row in moment.scan(AIRPORTS.by_city, reverse=True, limit=2)] == ["LGA", "JFK"]


def test_rows_of_many_versions_are_leapt_over(db: Database) -> None:
    for n in range(300):
        with db.transaction() as tx:
            for id in (1, 2, 3):
                tx.put(ITEMS, Item(id=id, n=n))
    first = db.head - 299
    for n in (0, 1, 63, 64, 150, 299):
        moment = db.at(seq=first + n)
        assert [(row.id, row.n) for row in moment.scan(ITEMS)] == [(1, n), (2, n), (3, n)]
        assert [(row.id, row.n) for row in moment.scan(ITEMS, reverse=True)] == [(3, n), (2, n), (1, n)]
        assert [row.id for row in moment.scan(ITEMS, limit=1, resume=_after_first(moment))] == [2]


def _after_first(moment: Any) -> bytes | None:
    page = moment.scan(ITEMS, limit=1)
    assert len(list(page)) == 1
    resume: bytes | None = page.resume
    return resume


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_is_not_disturbed_by_what_is_projected_meanwhile(db: Database, reverse: bool) -> None:
    db.load(ITEMS, items(100, 130))
    scan = iter(db.at(seq=db.head).scan(ITEMS, reverse=reverse))
    found = [next(scan).id]
    db.load(ITEMS, [*items(1, 20), *items(200, 220)])
    db.past.catch_up()
    found += [row.id for row in scan]
    assert sorted(found) == [*range(100, 131)]


def test_a_scan_ends_with_its_database(opening: Opener) -> None:
    db = opening()
    db.load(ITEMS, items(1, 5000))
    scan = iter(db.at(seq=db.head).scan(ITEMS))
    next(scan)
    db.close()
    with pytest.raises(ClosedError):
        list(scan)
    opening()  # its lock is free


def test_catching_up_goes_on_where_it_was_interrupted(opening: Opener) -> None:
    db = opening()
    for n in range(3000):
        db.put(ITEMS, Item(id=n % 50, n=n), durability="os")
    db.log.sync()

    def stop(step: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        db.past.catch_up(progress=stop)
    assert 0 < db.past.versions.applied < db.head
    steps = list[Progress]()
    db.past.catch_up(progress=steps.append)
    assert steps[0].done < 2500
    assert db.at(seq=db.head).hashes() == db.admin.hashes()


def test_killed_while_it_catches_up_it_goes_on_and_is_the_same(path: Path, opening: Opener) -> None:
    with open_flights(path) as db:
        for n in range(5000):
            db.put(ITEMS, Item(id=n % 50, n=n), durability="os")
    killed = subprocess.run([sys.executable, "-m", "tests.store.past_killed", path], check=False)
    assert killed.returncode == 9
    db = opening()
    db.past.catch_up()
    ((family, _),) = db.past.versions.families()
    whole = list(family.items())
    del family
    db.past.forget()
    db.past.catch_up()
    ((family, _),) = db.past.versions.families()
    assert list(family.items()) == whole
    del family
    assert db.at(seq=db.head).hashes() == db.admin.hashes()


def test_a_projection_of_another_log_is_made_anew(path: Path, opening: Opener) -> None:
    with open_flights(path) as db:
        db.put(ITEMS, Item(id=1, n=1))
        db.past.catch_up()
        found = db.engine.side(FAMILY)
        assert found is not None
        family: Any = found[0]
        value = family.get(b"\0\0\0\0\0\1")
        family.put(b"\0\0\0\0\0\1", value[:-1] + b"\0")
        family.put(b"\0\0\0\x03nonsense", b"\0\x01\x01")
        del family, found
    db = opening()
    assert db.at(seq=db.head).count(ITEMS) == 1


@pytest.mark.parametrize("size", [0, 1])
def test_a_version_that_points_elsewhere_is_damage_and_no_answer(db: Database, size: int) -> None:
    seq = db.put(ITEMS, Item(id=1, n=1)).seq
    db.put(SEATS, SEATS.model(flight=1, row=1, letter=b"A"))
    db.past.catch_up()
    found = db.engine.side(FAMILY)
    assert found is not None
    family: Any = found[0]
    (full,) = [key for key, _ in family.items() if key[:4] == b"\0\0\0\x03"]
    family.put(full, bytes((0, 2, size)))
    del family, found
    db.past.refresh()
    with pytest.raises(CorruptionError, match=rf"expected a change of row .* in record {seq} at byte 2"):
        db.at(seq=seq).get(ITEMS, 1)


def test_a_reader_beside_the_writer_has_the_past_as_well(path: Path, opening: Opener) -> None:
    db = opening()
    first = db.put(ITEMS, Item(id=1, n=1)).seq
    db.at(seq=first)
    with open_flights(path, read_only=True) as reader:
        second = db.put(ITEMS, Item(id=1, n=2)).seq
        assert reader.at(seq=first).get(ITEMS, 1) == Item(id=1, n=1)
        with pytest.raises(CursorError):
            reader.at(seq=second)
        reader.refresh()
        assert reader.at(seq=second).get(ITEMS, 1) == Item(id=1, n=2)
        assert list(reader.at(seq=first).scan(ITEMS)) == [Item(id=1, n=1)]
        db.past.catch_up()
        db.engine.flush()
        third = db.put(ITEMS, Item(id=1, n=3)).seq
        reader.refresh()
        found = [list(reader.at(seq=seq).scan(ITEMS)) for seq in (first, second, third)]
        assert [row.n for (row,) in found] == [1, 2, 3]
