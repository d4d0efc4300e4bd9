import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from everlog import SchemaError, migrations
from everlog.store.database import Database
from tests.migrations.project import Project
from tests.migrations.test_remake import Split

NOW = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)


def test_the_first_migration_of_a_project_can_be_built_and_applied_as_it_is(
    project: Project, db: Database
) -> None:
    path = migrations.new("create_notes", project.path, now=NOW)
    assert path == project.path / "v20260105093000_create_notes"
    migrations.build(project.path)
    migrations.apply(db, project.path)
    assert migrations.load_testdata(db, project.path) == {"notes": 100}


def test_a_directory_that_is_not_there_is_made(tmp_path: Path) -> None:
    path = migrations.new("create_notes", tmp_path / "db" / "migrations", now=NOW)
    assert (path.parent / "__init__.py").exists()


def test_a_package_that_is_not_there_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SchemaError, match=r"no package or directory nowhere\.migrations"):
        migrations.new("create_notes", "nowhere.migrations")
    assert list(tmp_path.iterdir()) == []


def test_the_next_is_a_copy_of_the_newest_under_its_own_package(project: Project) -> None:
    project.add(
        version=20260101000000,
        files={
            "testdata.py": "# rows",
            "helper.py": "# help",
            "bootstrap.py": "# once",
            "bootstrap_airports.csv": "faa\nJFK\n",
            "tests/test_it.py": "# of that step",
        },
    )
    project.build()
    path = migrations.new("add_planes", project.path, now=NOW)
    assert sorted(file.name for file in path.iterdir()) == [
        "__init__.py",
        "helper.py",
        "model.proto",
        "testdata.py",
    ]
    assert f"package {project.app}.v20260105093000;" in (path / "model.proto").read_text()
    migrations.build(project.path)
    assert [migration.name for migration in project.load()] == ["create_airports", "add_planes"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Migration(tables=[A], drop=['x'])", "Migration(tables=[A])"),
        ("Migration(drop=['x'], tables=[A])", "Migration(tables=[A])"),
        ("Migration(\n    tables=[A],\n    drop=['x', 'ü'],\n)", "Migration(\n    tables=[A],\n)"),
        ("Migration(tables=[A])", "Migration(tables=[A])"),
    ],
)
def test_what_the_newest_dropped_is_not_dropped_again(project: Project, before: str, after: str) -> None:
    code = project.add(version=20260101000000) / "__init__.py"
    code.write_text(f'"""Was: ü."""\n\nA = 1\nMIGRATION = {before}\n')
    path = migrations.new("next_one", project.path, now=NOW)
    assert (path / "__init__.py").read_text() == f'"""Next one."""\n\nA = 1\nMIGRATION = {after}\n'


def test_comments_that_ignored_a_finding_of_the_newest_are_not_copied(project: Project) -> None:
    folder = project.add(
        version=20260101000000,
        fields="""string faa = 1; // everlog: ignore[name/field] as it was
  // everlog: ignore[loss/field-removed] nobody reads it
  // Feet above the sea.
  /* The name. everlog: ignore[json/field-name,
     json/field-type] told everybody */
  string name = 2; /* everlog: ignore[name/field] so */ int32 alt = 4;""",
        files={"testdata.py": 'A = "everlog: ignore[x] y"  # everlog: ignore[name/constant] as "here"'},
    )
    code = folder / "__init__.py"
    code.write_text(f"{code.read_text()}# everlog: ignore[name/table] ü\n    # everlog: ignore[x] y")
    path = migrations.new("next_one", project.path, now=NOW)
    model = (path / "model.proto").read_text()
    assert model[model.index("string faa") :] == (
        "string faa = 1;\n  // Feet above the sea.\n  /* The name. */\n  string name = 2; int32 alt = 4;\n}\n"
    )
    assert (path / "__init__.py").read_text().endswith("MIGRATION = Migration(tables=[AIRPORTS])\n")
    assert (path / "testdata.py").read_text() == 'A = "everlog: ignore[x] y"'
    assert "everlog: ignore" in code.read_text()


def test_two_made_in_one_second_get_timestamps_in_their_order(project: Project) -> None:
    made = [migrations.new(name, project.path, now=NOW) for name in ("one", "two", "three")]
    assert [path.name[:15] for path in made] == ["v20260105093000", "v20260105093001", "v20260105093002"]


@pytest.mark.parametrize("name", ["Create", "create-notes", "1st", "", "a b", "../x"])
def test_a_bad_name_is_refused(project: Project, name: str) -> None:
    with pytest.raises(SchemaError, match="expected a migration name in a-z, 0-9 and _"):
        migrations.new(name, project.path)


def test_what_the_newest_has_done_is_not_copied(project: Project) -> None:
    project.add("one")
    code = project.add(
        "two",
        fields="string faa = 1; string name = 3; reserved 2;",
        code="""\
            from ..v20260101000000_one.model_pb2 import Airport as AirportV1


            def up(old: AirportV1) -> Airport:
                return Airport(faa=old.faa, name=old.name)


            def helper() -> int:
                return 1

            """,
        drop=', transforms=[Transform(AIRPORTS, AirportV1, up)], rename={"a": "b"}',
    )
    constants = code / "__init__.py"
    constants.write_text(constants.read_text().replace('"name", 2', '"name", 3'))
    text = (migrations.new("three", project.path) / "__init__.py").read_text()
    assert "MIGRATION = Migration(tables=[AIRPORTS])\n" in text
    assert "def helper() -> int:" in text
    for done in ("AirportV1", "def up", "transforms", "rename"):
        assert done not in text
    compile(text, "three", "exec")


def test_rows_that_the_newest_made_anew_are_not_made_anew_again(project: Project, db: Database) -> None:
    Split(project, db)
    text = (migrations.new("three", project.path) / "__init__.py").read_text()
    assert "MIGRATION = Migration(\n    tables=[AIRPORTS, CITIES]\n)\n" in text
    for done in ("Remake", "def split", "def join", "OLD", "AirportV1"):
        assert done not in text
    assert [migration.name for migration in project.build().load()] == ["one", "two", "three"]


ONE = "string faa = 1; string name = 2;"
TWO = "string faa = 1; reserved 2; string first = 3; string last = 4;"
PIECES = {
    "imports": """
from ..{old} import AIRPORTS as BEFORE, FAA as OLD_FAA
from ..{old}.model_pb2 import Airport as Old
""",
    "guarded": """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from ..{old} import NAME as NAME_BEFORE
""",
    "absolute": "from {package}.{old} import NAME as NAME_BEFORE",
    "constant": "SEPARATOR = ' '  # between names\nPARTS: int = 2",
    "lambda": "last_of = lambda old: parts(old)[-1]",
    "cached": """
from functools import wraps
def cached(f):  # a decorator
    return wraps(f)(lambda *a: f(*a))
""",
    "helper": """
# Of a name.
@cached
def parts(old: Old) -> list[str]:
    return (old.name + SEPARATOR + 'x').split(SEPARATOR, PARTS)
""",
    "class": """
class Names:
    before = OLD_FAA
    def of(self, old: Old) -> str: return old.name
""",
    "alias": "OLDEST = BEFORE; LIMIT = 3",
    "kept": "def shown(row) -> str:\n    return row.first + SEPARATOR",
    "all": "__all__ = ['AIRPORTS', 'MIGRATION', 'up', 'parts']",
}
NEEDED = ("imports", "constant", "cached", "helper")
BOTH = """
def up(old: Old) -> "Airport":
    first, *rest = parts(old)
    return Airport(faa=old.faa, first=first, last=rest[0])


# Rolling back.
def down(new: "Airport") -> Old:
    return Old(faa=new.faa, name=SEPARATOR.join([new.first, new.last]))
"""


def check_copied(project: Project, path: Path) -> None:
    """Check that the folder at `path`, created by `new`, loads, has no lint findings, and changes nothing."""
    migrations.build(project.path)
    found = [one for one in migrations.lint(project.path) if path.name in one.file]
    assert [one.text for one in found if one.severity != "info"] == []
    with Database(path.parent.parent / "db") as db:
        assert migrations.plan(db, project.path)[-1].steps == []
        migrations.apply(db, project.path)


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 30))]
)
def test_a_copy_of_any_folder_loads_lints_clean_and_does_nothing(project: Project, seed: int) -> None:
    random = Random(seed)
    old = project.add("old", fields=ONE)
    names = [name for name in PIECES if name in NEEDED or seed == 0 or random.random() < 0.7]
    names.sort(key=lambda name: NEEDED.index(name) if name in NEEDED else 4 + random.random())
    package = f"{project.app}.migrations"
    code = "\n\n".join(PIECES[name].format(old=old.name, package=package) for name in names) + BOTH
    down = random.choice([", down", "", ", lambda new: down(new)"])
    more = ", rename={}, drop=[]" if random.random() < 0.5 else ""
    done = f"{more}, transforms=[Transform(AIRPORTS, Old, up{down})],"
    newest = project.add("new", fields=TWO, drop=done)
    init = newest / "__init__.py"
    text = init.read_text().replace('NAME = field("name", 2, STRING)', 'FIRST = field("first", 3, STRING)')
    raw = text.replace("\nAIRPORTS =", f"\n{code}\nAIRPORTS =").encode()
    if seed % 3 == 0:
        raw = b"\xef\xbb\xbf" + raw.replace(b"\n", b"\r\n")
    elif seed % 3 == 1:
        raw = "# -*- coding: latin-1 -*-\n# \xe9\n".encode("latin-1") + raw
    init.write_bytes(raw)
    model = newest / "model.proto"
    model.write_bytes(b"\xef\xbb\xbf" + model.read_bytes())
    project.build().load()
    path = migrations.new("next", project.path)
    check_copied(project, path)
    copied = (path / "__init__.py").read_text()
    assert not re.search(r"Transform\(|from \.\.|\bdown\b|\bup\b|parts\(", copied)
    assert ("def shown" in copied) == ("kept" in names)
    assert "SEPARATOR =" in copied


def test_what_another_file_of_the_folder_needs_is_copied(project: Project) -> None:
    project.add("old", fields=ONE)
    testdata = "from . import LIMIT, of\ndef rows(random, scale):\n    return []\n"
    code = "from ..v20260101000000_old import FAA as BEFORE\nLIMIT = BEFORE\ndef of(old): return old.name\n"
    project.add("new", fields=ONE, code=code, files={"testdata.py": testdata})
    project.build()
    check_copied(project, migrations.new("next", project.path))


@pytest.mark.parametrize(
    "names",
    [
        ["create_tables", "create_index", "create_none"],
        pytest.param(["add_migrations", "create_strings", "create_id", "create_"], marks=pytest.mark.long),
        pytest.param(["create_rows", "create_iterators", "add_2024", "create_class"], marks=pytest.mark.long),
    ],
)
def test_a_first_migration_of_any_name_is_whole(tmp_path: Path, names: list[str], project: Project) -> None:
    for number, name in enumerate(names):
        source = tmp_path / f"{project.app}of{number}" / f"{project.app}_{number}"
        migrations.new(name, source)
        migrations.build(source)
        assert [one.text for one in migrations.lint(source) if one.severity != "info"] == []
        with Database(tmp_path / f"db_{name}") as db:
            migrations.apply(db, source)
            migrations.load_testdata(db, source)


@pytest.mark.long
def test_a_copy_of_each_example_loads_lints_clean_and_does_nothing(tmp_path: Path) -> None:
    examples = Path(__file__).parents[2] / "examples" / "flights" / "migrations"
    folders = sorted(examples.glob("v*"))
    for count in range(1, len(folders) + 1):
        project = Project(tmp_path / str(count))
        for folder in folders[:count]:
            ignored = shutil.ignore_patterns("bootstrap.py", "*_pb2.*", "__pycache__")
            copied = shutil.copytree(folder, project.path / folder.name, ignore=ignored)
            for path in copied.rglob("*.p*"):
                text = path.read_text().replace("package flights.", f"package {project.app}.")
                path.write_text(text.replace("flights.migrations", f"{project.app}.migrations"))
        check_copied(project, migrations.new("next", project.path))
