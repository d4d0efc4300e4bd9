"""Mistakes in a folder of migrations, and how the commands report each.

The first migration is applied; the second has the mistake. `lint`, `up --dry-run` and `up` must each
say it at its place, and leave the tables as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from everlog.store.database import Database
from tests.console.conftest import Run
from tests.migrations.project import Project, line_of

INIT, URL, FIRST = "__init__.py", "file:mistakes.db", 20260101000000
CODE = """\
    from ..v20260101000000_first.model_pb2 import Airport as AirportV1


    def up(old: AirportV1) -> Airport:
        return Airport(faa=old.faa, name=old.name, city="?")


    def down(new: Airport) -> AirportV1:
        return AirportV1(faa=new.faa, name=new.name)

    """
FIELDS = "string faa = 1;\n  string name = 2;\n  string city = 3;\n  repeated string tags = 4;"
ROWS = "faa,name\nJFK,same\nLGA,same\n"
RETURN = 'return Airport(faa=old.faa, name=old.name, city="?")'
TABLE = "AIRPORTS = Table("
ALL = "lint dry up"


class Mistake(NamedTuple):
    """`file`: the reported file, and with `near` the line; `by`: the commands that report it."""

    change: Callable[[Path], object]
    says: str
    file: str = INIT
    near: str = ""
    by: str = ALL
    code: int = 1


def swap(*pairs: str, file: str = INIT) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / file).read_text()
        for was, now in zip(pairs[::2], pairs[1::2], strict=True):
            assert was in text
            text = text.replace(was, now)
        (folder / file).write_text(text)

    return change


def put(file: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text(text)


def index(name: str, number: int, rest: str = "") -> Callable[[Path], None]:
    field = f'{name.upper()} = field("{name}", {number}, STRING)\n{TABLE}'
    table = f'key=FAA, indexes=(Index("by_it", {name.upper()}{rest}),))'
    return swap(TABLE, field, "key=FAA)", table)


def copied(folder: Path) -> None:
    other = folder.with_name(folder.name.replace("second", "other"))
    other.mkdir()
    for file in ("model.proto", INIT, "model_pb2.py"):
        (other / file).write_bytes((folder / file).read_bytes())


CSV = "bootstrap_airports.csv"
MISTAKES = {
    "a wrong number": Mistake(swap('"name", 2', '"name", 3'), "declared with number 3", near='"name"'),
    "a wrong type": Mistake(swap("2, STRING", "2, INT32"), "declared as int32, but has type", near='"name"'),
    "a field that is not": Mistake(swap('"name"', '"nome"'), "model has: faa, name, city", near='"nome"'),
    "a table not declared": Mistake(
        swap(
            "MIGRATION =",
            "B = Table('b', Airport, key=FAA)\nMIGRATION =",
            "Transform(AIRPORTS",
            "Transform(B",
        ),
        "table b is declared but not listed in MIGRATION; add it there",
        near="B = Table",
    ),
    "a transform of another model": Mistake(
        swap("AIRPORTS, AirportV1,", "AIRPORTS, Airport,"),
        "but the earlier migrations declare them as",
        near="MIGRATION =",
    ),
    "up makes the old row": Mistake(swap(RETURN, "return old"), "expected a ", near="MIGRATION =", by="lint"),
    "up makes nothing": Mistake(swap(RETURN, "pass"), "found None", near="MIGRATION =", by="lint"),
    "up changes the key": Mistake(
        swap("faa=old.faa,", "faa=old.faa.lower(),"), "changes the primary key, which must stay", by="lint"
    ),
    "up raises": Mistake(swap("faa=old.faa,", "faa=old.f,"), "AttributeError", near="old.f,", by="lint"),
    "up takes no row": Mistake(swap("up(old: AirportV1)", "up()"), "TypeError: up() takes 0", by="lint"),
    "a model not built": Mistake(
        lambda folder: (folder / "model_pb2.py").unlink(),
        "model_pb2.py is not generated yet",
        "model.proto",
        code=2,
    ),
    "a model that is stale": Mistake(
        swap("city = 3", "town = 3", file="model.proto"),
        "generated from another version",
        "model.proto",
        code=2,
    ),
    "a model that is older": Mistake(
        swap("v20260101000001;", "v20260101000000;", file="model.proto"), "expected `package", "model.proto"
    ),
    "two of one timestamp": Mistake(copied, "timestamp", file=""),
    "a name with capitals": Mistake(
        lambda folder: folder.rename(folder.with_name("v20260101000001_Second")), "a name in a-z", file=""
    ),
    "no model": Mistake(
        lambda folder: (folder / "model.proto").unlink(), "expected a file model", file="", code=2
    ),
    "a column too many": Mistake(put(CSV, "faa,nose\nTEB,y\n"), "column 2: app", CSV),
    "a cell too many": Mistake(put(CSV, "faa\nTEB\nSWF,y\n"), "expected 1 cells", CSV, near="SWF"),
    "a row twice": Mistake(
        put(CSV, "faa,name\nTEB,x\nTEB,y\n"), "two rows with the same key, and only the last", CSV, by="lint"
    ),
    "a row without a key": Mistake(put(CSV, "name\nx\n"), "lacks its key field faa", CSV, by="lint"),
    "rows of no table": Mistake(
        put("bootstrap_x.csv", "faa\nx\n"), "declares no table 'x'; it declares: airports", "bootstrap_x.csv"
    ),
    "a bootstrap that raises": Mistake(
        put("bootstrap.py", "def rows():\n    yield 1 / 0\n"),
        "ZeroDivisionError",
        "bootstrap.py",
        near="1 / 0",
    ),
    "an index over many": Mistake(index("tags", 4), "'tags' of", near="TAGS ="),
    "a unique index that is not": Mistake(
        index("city", 3, ", unique=True"),
        "row airports/LGA has the same city in the unique index",
        near=TABLE,
        by="lint",
    ),
    "a syntax error": Mistake(swap("MIGRATION =", "MIGRATION = ="), "SyntaxError", near="= ="),
    "a later folder": Mistake(
        swap("from .model", "from ..v20260301000000_third import X\nfrom .model"),
        "the code needs the folder",
        near="third",
        code=2,
    ),
    "no MIGRATION": Mistake(swap("MIGRATION =", "MIGRATE ="), "expected `MIGRATION = Migration("),
    "MIGRATION of a wrong type": Mistake(
        swap("= Migration(", "= dict("), "expected `MIGRATION = Migration(tables=[…])`, found {'tables'"
    ),
    "an unknown argument": Mistake(swap("tables=", "tabels="), "argument 'tabels'", near="tabels"),
    "a table by its name": Mistake(
        swap("tables=[AIRPORTS]", 'tables=["a"]'), "a list of tables, found str 'a'"
    ),
    "a table to drop that is not": Mistake(
        swap("tables=[AIRPORTS]", 'tables=[AIRPORTS], drop=["x"]'), "drops table 'x'", near="drop="
    ),
    "a table to rename that is not": Mistake(
        swap("tables=[AIRPORTS]", 'tables=[AIRPORTS], rename={"a": "b"}'), "renames table 'a'", near="rename="
    ),
    "another key": Mistake(swap("key=FAA", "key=NAME"), "primary key", near=TABLE),
    "checks that do not load": Mistake(put("checks.py", "def checks(:\n"), "SyntaxError", "checks.py"),
    "checks of another name": Mistake(
        put("checks.py", "def check(db): ...\n"), "expected a function `checks(db)", "checks.py"
    ),
    "checks that raise": Mistake(
        put("checks.py", "def checks(db):\n    yield 1 / 0\n"),
        "ZeroDivisionError",
        "checks.py",
        "1 / 0",
        "dry up",
    ),
    "test data of another name": Mistake(
        put("testdata.py", "def row(): ...\n"), "expected a function `rows(random", "testdata.py", by="lint"
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_said_at_its_place_and_changes_nothing(
    everlog: Run, here: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    mistake, project = MISTAKES[name], Project(here)
    project.add("first", fields="string faa = 1;\n  string name = 2;", files={CSV: ROWS})
    transforms = ", transforms=[Transform(AIRPORTS, AirportV1, up, down)]"
    files = {"testdata.py": "", "test_it.py": ""}
    folder = project.add("second", fields=FIELDS, code=CODE, drop=transforms, files=files)
    project.build()
    words = ("-u", URL, "-d", project.path.relative_to(here))
    aside = folder.rename(here / "second")
    assert everlog(*words, "up").code == 0
    aside.rename(folder)
    mistake.change(folder)
    before = _rows(here)
    said = {
        "lint": lambda: everlog(*words, "lint"),
        "dry": lambda: everlog(*words, "up", "--dry-run"),
        "up": lambda: everlog(*words, "up"),
    }
    for by in mistake.by.split():
        ended = said[by]()
        assert ended.code == (1 if by == "lint" else mistake.code), ended
        found = f"{ended.out}{ended.err}"
        assert mistake.says in found
        assert "Traceback" not in found
        if mistake.file:
            line = line_of(folder / mistake.file, mistake.near) if mistake.near else ""
            assert f"{folder.name}/{mistake.file}:{line}" in found
    assert _rows(here) == before


def _rows(here: Path) -> list[object]:
    with Database(here / "mistakes.db", create=False) as db:
        assert list(db.admin.check()) == []
        return [db.head, db.schema.version, *(table.rows for table in db.admin.status().tables)]
