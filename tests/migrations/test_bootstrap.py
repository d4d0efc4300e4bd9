from typing import Any

import pytest

from everlog import Error, LoadError, MigrationError, SchemaError, migrations
from everlog.migrations.details import show
from everlog.store.database import Database
from everlog.store.record import RECORD_BYTES_MAX
from tests.migrations.project import Project

YIELD = "from . import *\ndef rows():\n    yield"


def test_bootstrap_rows_come_from_code_and_files_and_replace_what_is_there(
    project: Project, db: Database
) -> None:
    code = """
        from . import AIRPORTS, Airport

        def rows():
            yield AIRPORTS, Airport(faa="JFK", name="from code")
            yield AIRPORTS, Airport(faa="LGA", name="from code")
        """
    project.add(
        "one", files={"bootstrap.py": code, "bootstrap_airports.jsonl": '{"faa": "EWR", "name": "from json"}'}
    )
    project.add("two", files={"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\nEWR,Newark\n"})
    migrations.apply(db, project.build().path)
    table = project.load()[1].tables[0]
    assert {row.faa: row.name for row in db.scan(table)} == {
        "EWR": "Newark",
        "JFK": "Kennedy",
        "LGA": "from code",
    }


@pytest.mark.parametrize(
    ("files", "kind", "said"),
    [
        (
            {"bootstrap_airports.csv": "faa,alt\nJFK,1\n"},
            LoadError,
            ".csv:1: column 2: ",
        ),
        ({"bootstrap_airports.csv": "faa,name\n,x\n"}, SchemaError, "lacks its key field"),
        ({"bootstrap_planes.csv": "faa\n"}, SchemaError, "no table 'planes'; it declares: airports"),
        ({"bootstrap_airports.txt": ""}, SchemaError, "bootstrap_airports.txt to end in .csv or .jsonl"),
        ({"bootstrap.py": "x = 1\n"}, SchemaError, "expected a function `rows() -> Iterator[Row]`"),
        (
            {"bootstrap.py": "def rows():\n    return 1 / 0\n"},
            SchemaError,
            "py:2: ZeroDivisionError",
        ),
        ({"bootstrap.py": "def rows():\n    yield 1\n"}, SchemaError, "a table and a row of it, found int"),
        ({"bootstrap.py": f"{YIELD} AIRPORTS, 7\n"}, SchemaError, "for airports, found int"),
    ],
)
def test_bootstrap_rows_that_do_not_fit_leave_no_trace(
    project: Project, db: Database, files: dict[str, str], kind: type[Error], said: str
) -> None:
    project.add("one", files=files)
    with pytest.raises(kind) as caught:
        migrations.apply(db, project.build().path)
    assert said in str(caught.value)
    assert db.head == 1


def test_rows_that_do_not_fit_in_the_last_migration_stop_the_first(project: Project, db: Database) -> None:
    project.add("one")
    project.add("two", files={"bootstrap_airports.csv": "faa,alt\nJFK,1\n"})
    with pytest.raises(LoadError):
        migrations.apply(db, project.build().path)
    assert db.head == 1


def test_more_rows_than_a_record_holds_come_into_a_table_that_is_there(
    project: Project, db: Database
) -> None:
    code = f"""
        from . import AIRPORTS, Airport

        def rows():
            for number in range(9):
                yield AIRPORTS, Airport(faa=str(number), name="x" * {RECORD_BYTES_MAX // 8})
        """
    project.add("one", files={"bootstrap_airports.csv": "faa,name\n1,one\nJFK,Kennedy\n"})
    project.add("two", files={"bootstrap.py": code})
    migrations.apply(db, project.build().path)
    rows = list(db.scan(project.load()[1].tables[0]))
    assert [row.faa for row in rows] == [*map(str, range(9)), "JFK"]
    assert len(rows[1].name) == RECORD_BYTES_MAX // 8


def test_rows_that_are_others_each_time_are_refused(project: Project, db: Database) -> None:
    code = f"""
        import itertools
        from . import AIRPORTS, Airport

        COUNT = itertools.count()

        def rows():
            for number in range(9):
                name = f"{{next(COUNT)}}" + "x" * {RECORD_BYTES_MAX // 8}
                yield AIRPORTS, Airport(faa=str(number), name=name)
        """
    project.add("one", files={"bootstrap.py": code})
    with pytest.raises(MigrationError, match="yields different rows each time"):
        migrations.apply(db, project.build().path)
    assert not db.schema.tables
    assert not db.schema.building


def test_more_deleted_rows_than_a_record_holds_are_refused(project: Project, db: Database) -> None:
    project.add("one")
    code = """
        from . import AIRPORTS

        def deleted():
            for number in range(100):
                yield AIRPORTS, f"{number}" + "x" * 100_000
        """
    project.add("two", files={"bootstrap.py": code})
    with pytest.raises(MigrationError, match="more than fit into one record; split them over several"):
        migrations.apply(db, project.build().path)
    assert db.head == 1


def test_rows_are_deleted_by_key_whether_they_are_there_or_not(project: Project, db: Database) -> None:
    delete = "from . import *\ndef deleted():\n    yield AIRPORTS, 'JFK'\n    yield AIRPORTS, 'none'\n"
    project.add("one", files={"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\nLGA,La Guardia\n"})
    project.add("two", files={"bootstrap.py": delete})
    migrations.apply(db, project.build().path)
    assert [row.faa for row in db.scan(project.load()[1].tables[0])] == ["LGA"]
    assert len(db.log.commit(db.head).changes) == 1
    db.admin.rebuild()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("1", "expected `deleted` to yield a table and the key of a row, found int"),
        ("AIRPORTS, Airport(faa='JFK')", "expected `deleted` to yield a table and the key"),
        ("Table('airports', Airport, key=FAA), 'JFK'", "this migration does not declare table airports"),
        ("AIRPORTS, 7", "expected"),
    ],
)
def test_a_key_that_is_none_leaves_no_trace(project: Project, db: Database, key: str, said: str) -> None:
    project.add("one", files={"bootstrap.py": f"from . import *\ndef deleted():\n    yield {key}\n"})
    with pytest.raises(Error) as caught:
        migrations.apply(db, project.build().path)
    assert said in str(caught.value)
    assert db.head == 1


@pytest.mark.parametrize(
    "made", [lambda text: text, lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")]
)
def test_a_checkout_with_other_line_ends_has_the_same_rows(project: Project, db: Database, made: Any) -> None:
    folder = project.add("one", files={"bootstrap.py": "def deleted():\n    return []\n"})
    (folder / "bootstrap_airports.csv").write_bytes(made(b'faa,name\nJFK,"two\nlines"\n'))
    (folder / "bootstrap_airports.jsonl").write_bytes(made(b'{"faa": "EWR", "name": "one\\r\\nline"}\n'))
    migrations.apply(db, project.build().path)
    table = project.load()[0].tables[0]
    assert [row.name for row in db.scan(table)] == ["one\r\nline", "two\nlines"]


def test_a_plan_reads_the_rows_of_a_folder_once_and_an_apply_reads_them_again(
    project: Project, db: Database
) -> None:
    read = project.path.parent / "read.txt"
    code = f"""
        from pathlib import Path

        from . import AIRPORTS, Airport

        def rows():
            with Path({str(read)!r}).open("a") as file:
                file.write("x")
            yield AIRPORTS, Airport(faa="JFK", name="from code")
        """
    project.add("one", files={"bootstrap.py": code})
    path = project.build().path

    def reads() -> int:
        found = len(read.read_text())
        read.write_text("")
        return found

    for _ in range(3):
        (planned,) = migrations.plan(db, path)
        assert show(db, planned.version, path).bootstrap[0].rows == 1
    assert reads() == 2  # all of them, and the first ones to show
    migrations.plan(db, path, try_rows=True)
    assert reads() >= 1
    migrations.apply(db, path)
    assert reads() >= 1
    migrations.plan(db, path)
    assert reads() == 0
