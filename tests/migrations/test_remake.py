"""Rows that are rebuilt from the whole database: split, joined, with another key."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from everlog import MigrationError, RowError, SchemaError, migrations
from everlog.migrations import State
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.progress import Progress
from everlog.store.schema.table import Table
from tests.migrations.project import Project

ROWS = 3000
CITIES = 7
SPLIT = {
    "model": """\
message Airport {
  string faa = 1;
  string name = 2;
  uint32 city = 3;
}

message City {
  uint32 id = 1;
  string name = 2;
}
""",
    "code": '''\
        from collections.abc import Iterator

        from ..v20260101000000_one import AIRPORTS as OLD
        from ..v20260101000000_one.model_pb2 import Airport as AirportV1

        CITY = field("city", 3, UINT32)
        of_city = Fields(City)
        ID = of_city("id", 1, UINT32)
        CITIES = Table("cities", City, key=ID)


        def split(db: Reader) -> Iterator[Row]:
            """Each city once, and each airport with the number of its city."""
            ids: dict[str, int] = {}
            for old in db.scan(OLD):
                name, _, city = old.name.partition(", ")
                if city not in ids:
                    ids[city] = len(ids) + 1
                    yield CITIES, City(id=ids[city], name=city)
                yield AIRPORTS, Airport(faa=old.faa, name=name, city=ids[city])


        def join(db: Reader) -> Iterator[Row]:
            for new in db.scan(AIRPORTS):
                city = db.get(CITIES, new.city)
                yield OLD, AirportV1(faa=new.faa, name=f"{new.name}, {city.name if city else '?'}")
        ''',
    "table": 'Table("airports", Airport, key=FAA, indexes=(Index("by_city", CITY),))',
}
MIGRATION = """\
MIGRATION = Migration(
    tables=[AIRPORTS, CITIES], up=Remake([AIRPORTS, CITIES], split), down=Remake([OLD], join)
)
"""


class Split:
    """A project whose second migration splits the rows of the first, and a database at the first."""

    def __init__(self, project: Project, db: Database) -> None:
        project.add("one")
        code = project.add("two", **SPLIT) / "__init__.py"  # type: ignore[arg-type]
        text = code.read_text()
        code.write_text(text[: text.index("MIGRATION =")] + MIGRATION)
        self.path, self.db = project.build().path, db
        loaded = project.load()
        self.migration = loaded[1]
        self.old: Table[Any, Any] = loaded[0].tables[0]
        self.new, self.cities = loaded[1].tables
        migrations.apply(db, self.path, to=loaded[0].version)
        db.load(self.old, [self.old_row(number) for number in range(ROWS)])

    def old_row(self, number: int) -> Any:
        return self.old.model(faa=f"A{number:05}", name=f"Airport {number}, City {number % CITIES}")

    def new_row(self, number: int) -> Any:
        return self.new.model(faa=f"A{number:05}", name=f"Airport {number}", city=number % CITIES + 1)

    def check(self) -> None:
        """Check that the database is in the state that the migration leaves."""
        db = self.db
        assert list(db.scan(self.new)) == [self.new_row(number) for number in range(ROWS)]
        assert [row.name for row in db.scan(self.cities)] == [f"City {at}" for at in range(CITIES)]
        assert db.count(self.new.by_city, 1) == len(range(0, ROWS, CITIES))
        assert not db.schema.building
        assert list(db.admin.check()) == []


@pytest.fixture
def split(project: Project, db: Database) -> Split:
    return Split(project, db)


def test_rows_are_split_into_tables_and_joined_again(split: Split) -> None:
    db = split.db
    migrations.apply(db, split.path)
    split.check()
    with pytest.raises(SchemaError, match="rows of table airports were rewritten"):
        db.get(split.old, "A00001")
    assert db.admin.rebuild_into(db.path.parent / "again") == db.admin.hashes()
    (planned,) = migrations.plan_rollback(db, source=split.path)
    *steps, tried = [step.text for step in planned.steps]
    assert steps == [
        f"drop table cities with its {CITIES} rows",
        "remake the rows of airports with `down`, while writers wait",
    ]
    assert f"`down` was tried: it makes {ROWS:,} rows in" in tried
    assert "writers will wait about" in tried
    (lost,) = planned.lost
    assert "which is dropped, except what `down` reads from them" in lost
    migrations.rollback(db, source=split.path)
    assert list(db.scan(split.old)) == [split.old_row(number) for number in range(ROWS)]
    assert list(db.admin.check()) == []
    migrations.apply(db, split.path)
    split.check()


def test_the_plan_says_that_writers_wait_and_for_how_long(split: Split) -> None:
    db, head = split.db, split.db.head
    (planned,) = migrations.plan(db, split.path)
    made = next(step for step in planned.steps if "remake" in step.text)
    assert "remake the rows of airports, cities with `up`, while writers wait" in made.text
    assert not made.instant
    (planned,) = migrations.plan(db, split.path, try_rows=True)
    tried = next(step for step in planned.steps if "was tried" in step.text)
    assert f"makes {ROWS + CITIES:,} rows in" in tried.text
    assert db.head == head


def test_writers_wait_until_it_has_switched(split: Split) -> None:
    db, errors = split.db, list[Exception]()

    def write() -> None:
        try:
            db.put(split.old, split.old_row(1))
        except SchemaError as error:
            errors.append(error)

    writers = [threading.Thread(target=write) for _ in range(2)]

    def start(at: Progress) -> None:
        if "make airports, cities" in at.step and not writers[0].ident:
            for writer in writers:
                writer.start()

    migrations.apply(db, split.path, progress=start)
    for writer in writers:
        writer.join()
    assert len(errors) == 2  # they wrote rows in the previous form
    split.check()


def test_stopped_half_way_clients_go_on_and_it_begins_anew(split: Split) -> None:
    db = split.db

    class StoppedError(Exception):
        pass

    def stop(at: Progress) -> None:
        if "make airports, cities" in at.step:
            raise StoppedError

    with pytest.raises(StoppedError):
        migrations.apply(db, split.path, progress=stop)
    assert migrations.status(db, split.path)[-1].state is State.BUILDING
    db.put(split.old, split.old_row(0))
    spaces = {info.space for info in db.schema.building.values()}
    migrations.apply(db, split.path)
    assert not spaces & db.schema.spaces.keys()
    split.check()


def refuse(split: Split) -> None:
    raise RowError(f"no name like {split.old_row(0).name}")


BAD: dict[str, tuple[Callable[[Split], Any], str]] = {
    "a key twice": (lambda split: (split.new, split.new_row(7)), "yields row airports/A00007 twice"),
    "another table": (
        lambda split: (split.old, split.old_row(0)),
        r"yields a row of airports as .*v20260101000000.Airport; expected .*v20260101000001",
    ),
    "an error of everlog, raised by user code": (refuse, "fails: RowError: no name like …[ ]"),
    "no table": (lambda split: split.new_row(0), "fails: TypeError"),
    "a wrong model": (lambda split: (split.new, split.cities.model(id=1)), "does not fit|fails"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_row_that_does_not_fit_leaves_no_trace(
    split: Split, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    db, hashes = split.db, split.db.admin.hashes()
    row, said = BAD[what]
    good = split.migration.up
    assert good is not None

    def bad(now: Any) -> Any:
        yield from good_rows(now)
        yield row(split)

    good_rows = good.rows
    monkeypatch.setattr(good, "rows", bad)
    with pytest.raises(MigrationError, match=said):
        migrations.apply(db, split.path)
    assert db.admin.hashes() == hashes
    assert db.migration_records()[-1].migration.step == log_pb2.Migration.FAILED
    assert list(db.admin.check()) == []
    db.put(split.old, split.old_row(0))


def test_two_versions_are_refused_with_the_reason(split: Split) -> None:
    with pytest.raises(MigrationError, match="cannot be served at once, because `up` remakes the rows of"):
        migrations.apply(split.db, split.path, hold=True)
    assert split.db.count(split.old) == ROWS
