from __future__ import annotations

import os
import py_compile
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from everlog import Error, SchemaError, migrations
from everlog.store.database import Database
from tests.migrations.project import HEADER, Project, line_of


def test_migrations_are_loaded_in_order_by_package_or_directory(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.add("first")
    project.add("second", fields="string faa = 1; string name = 2; string city = 3;")
    project.build()
    by_directory = project.load()
    monkeypatch.syspath_prepend(str(project.path.parents[1]))
    assert migrations.load(f"{project.app}.migrations") == by_directory
    assert [migration.name for migration in by_directory] == ["first", "second"]
    assert [table.name for table in by_directory[1].tables] == ["airports"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ('CITY = field("city", 3, STRING)', "the model has: faa, name"),
        ('CITY = field("name", 3, STRING)', "declared with number 3, but has number 2 in the model"),
        ('CITY = field("name", 2, INT32)', "declared as int32, but has type string in the model"),
        ('OTHER = Table("others", Airport, key=FAA)', "table others is declared but not listed in MIGRATION"),
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("import nothing_of_the_kind", "ModuleNotFoundError"),
        ("1 +", "SyntaxError"),
    ],
)
def test_a_mistake_in_the_constants_is_said_with_file_and_line(
    project: Project, code: str, said: str
) -> None:
    file = project.add(code=code) / "__init__.py"
    project.build()
    with pytest.raises(SchemaError) as caught:
        project.load()
    assert said in str(caught.value)
    assert caught.value.where == f"{file}:{line_of(file, code)}"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("drop='carriers'", "`drop` as a list of names, found str 'carriers'"),
        ("drop=[3]", "`drop` as a list of names, found int 3"),
        ("rename=['airports']", "`rename` as a dict of names, found list"),
        ("transforms={'airports': None}", "`transforms` as a list of Transform, found dict"),
        ("transforms=[Transform(AIRPORTS, AIRPORTS, up=str)]", "the model of the rows as second argument"),
        ("transforms=[Transform(AIRPORTS, None, up=str)]", "second argument of Transform, found NoneType"),
        ("transforms=[Transform('airports', Airport, up=str)]", "a Table as first argument of Transform"),
        ("up=3", "`up` as a Remake, found int 3"),
        ("down=str", "`down` as a Remake, found type"),
        ("up=Remake('airports', str)", "a list of tables as first argument of Remake, found str 'airports'"),
    ],
)
def test_an_argument_of_another_kind_is_said_with_file_and_line(
    project: Project, more: str, says: str
) -> None:
    folder = project.add(drop=f", {more}")
    project.build()
    number = line_of(folder / "__init__.py", "MIGRATION")
    with pytest.raises(SchemaError, match=re.escape(f"{folder}/__init__.py:{number}: expected ")) as caught:
        project.load()
    assert says in str(caught.value)
    assert str(caught.value).count("__init__.py") == 1


def test_bytecode_of_an_earlier_content_is_not_run(project: Project) -> None:
    """Python takes it if the time in seconds and the size are the same; the digest is of the file."""
    file = project.add() / "__init__.py"
    project.build()
    py_compile.compile(str(file), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP)
    there = file.stat()
    file.write_text(file.read_text().replace('"faa", 1', '"faa", 7'))
    os.utime(file, ns=(there.st_atime_ns, there.st_mtime_ns))
    project.build()
    with pytest.raises(SchemaError, match="declared with number 7, but has number 1 in the model"):
        project.load()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('Table("air ports", Airport, key=FAA)', "to be an identifier"),
        (
            'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME), Index("by_name", FAA)))',
            "two indexes",
        ),
        ('Table("airports", Airport, key=())', "no primary key"),
    ],
)
def test_a_table_that_contradicts_itself_is_said_with_file_and_line(
    project: Project, table: str, said: str
) -> None:
    file = project.add(table=table) / "__init__.py"
    project.build()
    with pytest.raises(SchemaError, match=said) as caught:
        project.load()
    assert caught.value.where == f"{file}:{line_of(file, 'AIRPORTS =')}"


def test_a_folder_without_its_constant_is_refused(project: Project) -> None:
    file = project.add() / "__init__.py"
    file.write_text(HEADER)
    project.build()
    with pytest.raises(SchemaError, match=r"expected `MIGRATION = Migration\(tables=\[…\]\)`, found None"):
        project.load()


def test_a_model_of_another_folder_is_refused(project: Project) -> None:
    project.add("first")
    file = (
        project.add("second", code="from ..v20260101000000_first import AIRPORTS as OTHERS") / "__init__.py"
    )
    file.write_text(file.read_text().replace("tables=[AIRPORTS]", "tables=[AIRPORTS, OTHERS]"))
    project.build()
    with pytest.raises(SchemaError, match=r"of this folder's own model\.proto"):
        project.load()


def test_two_tables_of_one_name_are_refused(project: Project) -> None:
    file = project.add(code='AGAIN = Table("airports", Airport, key=FAA)') / "__init__.py"
    file.write_text(file.read_text().replace("tables=[AIRPORTS]", "tables=[AIRPORTS, AGAIN]"))
    project.build()
    with pytest.raises(SchemaError, match="two tables named 'airports'"):
        project.load()


def test_a_mistake_in_the_last_folder_stops_the_load_of_all(project: Project) -> None:
    project.add("first")
    project.add("second", drop=', drop=["planes"]')
    project.build()
    with pytest.raises(SchemaError, match="drops table 'planes', which does not exist") as caught:
        project.load()
    assert caught.value.where.startswith(str(project.folders[1] / "__init__.py:"))


def test_another_key_is_refused_when_loaded(project: Project) -> None:
    project.add("first")
    project.add("second", table='Table("airports", Airport, key=NAME)')
    project.build()
    with pytest.raises(SchemaError, match="a different primary key"):
        project.load()


def test_a_table_that_was_dropped_may_come_again_in_another_shape(project: Project) -> None:
    project.add("first")
    second = project.add("second", drop=', drop=["airports"]') / "__init__.py"
    second.write_text(
        second.read_text().replace("tables=[AIRPORTS]", "tables=[]").replace("AIRPORTS =", "_ =")
    )
    second.write_text(second.read_text().replace('_ = Table("airports", Airport, key=FAA)', ""))
    project.add("third", fields="int32 faa = 1; string name = 2;").joinpath("__init__.py").write_text(
        HEADER.replace('"faa", 1, STRING', '"faa", 1, INT32')
        + 'AIRPORTS = Table("airports", Airport, key=FAA)\nMIGRATION = Migration(tables=[AIRPORTS])\n'
    )
    assert len(project.build().load()) == 3


def test_a_package_of_the_same_name_elsewhere_is_said(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.add()
    project.build().load()
    other = Project(project.path.parents[1] / "elsewhere")
    other.app = project.app
    other.path = other.path.parents[1] / project.app / "migrations"
    other.path.mkdir(parents=True)
    for package in (other.path, other.path.parent):
        (package / "__init__.py").touch()
    other.add()
    other.build()
    with pytest.raises(SchemaError, match="two packages have the same name"):
        other.load()
    assert str(project.path.parents[1]) in sys.path
    shutil.rmtree(project.path)
    with pytest.raises(SchemaError, match="two packages have the same name"):
        other.load()


def test_code_of_a_folder_that_would_end_the_process_is_an_error(project: Project, db: Database) -> None:
    rows = "import sys\n\n\ndef rows():\n    sys.exit(0)\n    yield\n"
    project.add("first", files={"bootstrap.py": rows})
    head = db.head
    with pytest.raises(Error, match="SystemExit"):
        migrations.apply(db, project.build().path)
    assert db.head == head


PLACES = ["transform", "remake", "rows", "deleted"]


@pytest.mark.parametrize("place", ["checks", *(pytest.param(one, marks=pytest.mark.long) for one in PLACES)])
def test_a_folder_that_raises_a_base_exception_is_given_up(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Such an exception would otherwise pass through every handler of errors, like an interrupt."""
    first = project.add("first", files={"bootstrap_airports.csv": "faa,name\nX,a\n"})
    model = f"{project.app}.migrations.{first.name}.model_pb2"
    project.add("second", **raising(place, model))
    folder = project.build().path
    one, _ = project.load()
    with Database(tmp_path / "db") as db:
        migrations.apply(db, folder, to=one.version)
        row = db.get(one.tables[0], "X")
        for raised in ("GeneratorExit", "Stop"):
            monkeypatch.setenv("RAISED", raised)
            with pytest.raises(Error, match=raised):
                migrations.apply(db, folder)
            assert db.schema.version == one.version
            assert [str(info.state) for info in migrations.status(db, folder)] == ["applied", "pending"]
            assert db.get(one.tables[0], "X") == row
        assert list(db.admin.check()) == []


def raising(place: str, model: str) -> dict[str, Any]:
    """Return a folder whose code raises at this place."""
    head = "import os\n\n\nclass Stop(BaseException):\n    pass\n\n\n"
    raised = "raise {'Stop': Stop, 'GeneratorExit': GeneratorExit}[os.environ['RAISED']]"
    beside = f"from . import *\n{head}def {place}(*args):\n"
    old = f"from {model} import Airport as Before\n{head}"
    places: dict[str, dict[str, Any]] = {
        "transform": {
            "code": f"{old}def up(old):\n    {raised}\n",
            "drop": ", transforms=[Transform(AIRPORTS, Before, up)]",
        },
        "remake": {
            "code": f"{old}def anew(db):\n    yield AIRPORTS, Airport(faa='Y')\n    {raised}\n",
            "drop": ", up=Remake([AIRPORTS], rows=anew)",
        },
        "rows": {"files": {"bootstrap.py": f"{beside}    yield AIRPORTS, Airport(faa='Y')\n    {raised}\n"}},
        "deleted": {"files": {"bootstrap.py": f"{beside}    yield AIRPORTS, 'X'\n    {raised}\n"}},
        "checks": {"files": {"checks.py": f"{beside}    yield from ()\n    {raised}\n"}},
    }
    return places[place]


def test_an_interrupt_in_a_folders_code_is_not_an_error_of_the_folder(project: Project, db: Database) -> None:
    rows = "def rows():\n    raise KeyboardInterrupt\n    yield\n"
    project.add("first", files={"bootstrap.py": rows})
    with pytest.raises(KeyboardInterrupt):
        migrations.apply(db, project.build().path)
