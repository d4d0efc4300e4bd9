import re

import pytest

from everlog import MigrationError, SchemaError, migrations
from everlog.proto import log_pb2
from everlog.store.database import Database
from tests.migrations.project import Project

HEAD = "from . import *\ndef checks(db):\n    "
INDEXED = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))'
JFK = {"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\n"}


def test_what_holds_before_and_after_lets_the_migration_pass(project: Project, db: Database) -> None:
    check = f"{HEAD}if db.get(AIRPORTS, 'JFK') is None: yield 'JFK is missing'\n"
    project.add("one", files={**JFK, "checks.py": check})
    project.add("two", files={"checks.py": check})
    assert len(migrations.apply(db, project.build().path)) == 2


def test_what_does_not_hold_before_stops_it_before_anything(project: Project, db: Database) -> None:
    project.add("one", files=JFK)
    project.add("two", files={"checks.py": f"{HEAD}if db.count(AIRPORTS) < 2: yield 'too few'\n"})
    with pytest.raises(MigrationError, match=r"checks\.py: a check before the migration failed: too few"):
        migrations.apply(db, project.build().path)
    assert db.schema.version == project.load()[0].version
    assert db.head == 2


def test_what_would_not_hold_after_leaves_no_trace(project: Project, db: Database) -> None:
    check = f"{HEAD}n = db.count(AIRPORTS)\n    if n != 1: yield f'expected one airport, found {{n}}'\n"
    project.add("one", files=JFK)
    more = {"bootstrap_airports.csv": "faa,name\nEWR,Newark\nLGA,La Guardia\n"}
    project.add("two", table=INDEXED, files={**more, "checks.py": check})
    project.build()
    first, second = project.load()
    migrations.apply(db, project.path, to=first.version)
    before = db.admin.hashes(), db.schema.proto
    with pytest.raises(
        MigrationError, match="a check after the migration failed: expected one airport, found …"
    ) as caught:
        migrations.apply(db, project.path)
    assert caught.value.facts["version"] == second.version
    assert (db.admin.hashes(), db.schema.proto) == before
    assert db.head == 2
    (project.folders[1] / "checks.py").write_text(HEAD + "return []\n")


def test_after_is_read_as_it_will_be_rows_indexes_and_deletions(project: Project, db: Database) -> None:
    check = """
        from . import AIRPORTS

        def checks(db):
            names = [row.name for row in db.scan(AIRPORTS.by_name)]
            if names != ["Kennedy", "Newark"]:
                yield f"names are {names}"
            if db.count(AIRPORTS) != 2:
                yield f"there are {db.count(AIRPORTS)}"
        """
    code = """
        from . import AIRPORTS, Airport

        def rows():
            yield AIRPORTS, Airport(faa="EWR", name="Newark")

        def deleted():
            yield AIRPORTS, "LGA"
        """
    project.add("one", files={"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\nLGA,La Guardia\n"})
    project.add("two", table=INDEXED, files={"bootstrap.py": code, "checks.py": check})
    assert len(migrations.apply(db, project.build().path)) == 2
    table = project.load()[1].tables[0]
    assert [row.faa for row in db.scan(table)] == ["EWR", "JFK"]


def test_an_index_that_is_built_beside_the_table_is_given_up(project: Project, db: Database) -> None:
    project.add("one", files={"testdata.py": MANY})
    project.add(
        "two", table=INDEXED, files={"checks.py": f"{HEAD}if db.count(AIRPORTS.by_name) > 9: yield 'many'\n"}
    )
    project.build()
    first, second = project.load()
    migrations.apply(db, project.path, to=first.version)
    migrations.load_testdata(db, project.path)
    with pytest.raises(MigrationError, match="failed: many"):
        migrations.apply(db, project.path)
    assert db.schema.version == first.version
    assert db.migration_records()[-1].migration.step == log_pb2.Migration.FAILED
    assert not db.schema.tables["airports"].indexes
    assert second.version not in {info.version for info in migrations.status(db, project.path) if info.seq}


MANY = """
    from . import AIRPORTS, Airport

    def rows(random, scale):
        for number in range(1500):
            yield AIRPORTS, Airport(faa=f"{number:04}", name="n")
    """


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\n", r"expected a function `checks\(db\) -> Iterable\[str\]`"),
        ("def checks(db):\n    return 1 / 0\n", r"checks\.py:2: ZeroDivisionError"),
        ("def checks(db):\n    return 'text'\n", "expected `checks` to yield sentences, found str"),
        ("def checks(db):\n    yield 7\n", "expected `checks` to yield sentences, found int"),
    ],
)
def test_a_mistake_in_a_check_stops_the_migration(
    project: Project, db: Database, code: str, said: str
) -> None:
    project.add("one", files={"checks.py": code})
    with pytest.raises((SchemaError, MigrationError), match=said):
        migrations.apply(db, project.build().path)
    assert db.head == 1


def test_the_plan_says_that_checks_are_held_and_rows_deleted(project: Project, db: Database) -> None:
    delete = "from . import *\ndef deleted():\n    yield AIRPORTS, 'JFK'\n"
    project.add("one", files={"checks.py": HEAD + "return []\n", "bootstrap.py": delete})
    (planned,) = migrations.plan(db, project.build().path)
    steps = [step.text for step in planned.steps]
    assert "delete 1 row of airports" in steps
    assert steps[-1].startswith("run checks.py before and after")


UP = """
    from ..v20260101000000_one.model_pb2 import Airport as Old

    def up(old: Old) -> Airport:
        return Airport(faa=old.faa, name=old.name.upper())
    """


@pytest.mark.parametrize(("found", "applied"), [("KENNEDY", 2), ("Kennedy", 1)])
def test_rows_that_are_yet_to_be_rewritten_are_checked_after(
    project: Project, db: Database, found: str, applied: int
) -> None:
    check = f"{HEAD}if (row := db.get(AIRPORTS, 'JFK')).name != '{found}': yield row.name\n"
    project.add("one", files=JFK)
    transforms = ", transforms=[Transform(AIRPORTS, Old, up)]"
    project.add("two", code=UP, drop=transforms, files={"checks.py": check})
    one, two = project.build().load()
    if applied == 2:
        migrations.apply(db, project.path)
    else:
        with pytest.raises(
            MigrationError, match="a check after the migration failed: a sentence that is not literal"
        ):
            migrations.apply(db, project.path)
    assert [row.name for row in db.scan((one, two)[applied - 1].tables[0])] == [
        ["Kennedy", "KENNEDY"][applied - 1]
    ]


@pytest.mark.parametrize(
    ("least", "said", "problem"),
    [(1, r"checks\.py was tried .* in \d+ ms and succeeds", False), (2, "checks.py FAILS .*: too few", True)],
)
def test_a_dry_run_holds_them_on_the_rows_as_they_are(
    project: Project, db: Database, least: int, said: str, problem: bool
) -> None:
    project.add("one", files=JFK)
    check = f"{HEAD}if db.count(AIRPORTS) < {least}: yield 'too few'\n"
    project.add("two", files={"checks.py": check})
    project.add("three", files={"checks.py": f"{HEAD}yield 'it is not its turn'\n"})
    migrations.apply(db, project.build().path, to=project.load()[0].version)
    planned, later = migrations.plan(db, project.path, try_rows=True)
    assert re.fullmatch(said, planned.steps[-1].text)
    assert planned.steps[-1].problem == problem
    assert not any(step.problem for step in later.steps)


@pytest.mark.parametrize("found", ["KENNEDY", "Kennedy"])
def test_checks_are_held_before_two_versions_are_served(project: Project, db: Database, found: str) -> None:
    check = f"{HEAD}if (row := db.get(AIRPORTS, 'JFK')).name != '{found}': yield row.name\n"
    project.add("one", files=JFK)
    down = "\n    def down(new: Airport) -> Old:\n        return Old(faa=new.faa, name=new.name)\n    "
    transforms = ", transforms=[Transform(AIRPORTS, Old, up, down)]"
    project.add("two", code=UP + down, drop=transforms, files={"checks.py": check})
    one, two = project.build().load()
    if found == "KENNEDY":
        migrations.apply(db, project.path, hold=True)
        assert db.get(two.tables[0], "JFK") == two.tables[0].model(faa="JFK", name="KENNEDY")
    else:
        with pytest.raises(
            MigrationError, match="a check after the migration failed: a sentence that is not literal"
        ):
            migrations.apply(db, project.path, hold=True)
    assert db.get(one.tables[0], "JFK") is not None
