from collections.abc import Callable
from pathlib import Path

import pytest

from everlog import MigrationError, SchemaError, migrations
from everlog.migrations.schema_text import from_text
from everlog.store.database import Database
from tests.migrations.project import Project

MODEL = """\
import "google/protobuf/timestamp.proto";

enum Kind {
  FIELD = 0;
  HELIPORT = 1;
}

message Position {
  double lat = 1;
}

message Airport {
  string faa = 1;
  string name = 2;
  optional Position position = 3;
  map<string, int32> runways = 4;
  google.protobuf.Timestamp opened = 5;
  Kind kind = 6;
  oneof owner {
    string city = 7;
    string army = 8;
  }
  reserved 9, 12 to 14;
}
"""
CODE = """\
POSITION = field("position", 3, MESSAGE)
LAT = POSITION.then(Fields(Position)("lat", 1, DOUBLE))
"""
TABLE = (
    'Table("airports", Airport, key=FAA,'
    ' indexes=(Index("by_name", NAME, unique=True), Index("by_lat", LAT, NAME)))'
)


@pytest.fixture
def dumped(project: Project, db: Database) -> str:
    project.add("one")
    project.add("two", model=MODEL, code=CODE, table=TABLE, files={"bootstrap_airports.csv": "faa\nJFK\n"})
    migrations.apply(db, project.build().path)
    return migrations.dump_schema(db)


def test_a_schema_is_lines_that_diff_well(project: Project, db: Database, dumped: str) -> None:
    model = f"{project.app}.v20260101000001"
    table = f"table airports {model}.Airport\n  key faa\n"
    assert f"{table}  index by_lat position.lat name\n  unique by_name name\n" in dumped
    digest = migrations.status(db, project.path)[0].digest.hex()
    assert f"\nmigration 20260101000000_one {digest}\n" in dumped
    assert "\nfile google/protobuf/timestamp.proto\n" in dumped
    faa = [line for line in dumped.splitlines() if '"faa"' in line]
    assert len(faa) == 1


def test_a_database_made_of_it_has_the_same_schema_and_nothing_pending(
    project: Project, db: Database, dumped: str, tmp_path: Path
) -> None:
    with Database(tmp_path / "new") as new:
        assert migrations.load_schema(new, dumped, actor="ann") == 20260101000001
        assert migrations.dump_schema(new) == dumped
        assert migrations.apply(new, project.path) == []
        assert [info.state for info in migrations.status(new, project.path)] == ["applied", "applied"]
        table = project.load()[1].tables[0]
        assert new.count(table) == 0
        new.put(table, table.model(faa="JFK", name="Kennedy"))
        assert [row.faa for row in new.scan(table.by_name, "Kennedy")] == ["JFK"]
        with pytest.raises(MigrationError, match="a schema can only be loaded into an empty database"):
            migrations.load_schema(new, dumped)
        with pytest.raises(MigrationError, match="was adopted by commit 3, not run"):
            migrations.rollback(new)
        assert list(new.admin.check()) == []


def test_numbers_that_a_rollback_has_used_up_are_not_in_it(
    project: Project, db: Database, dumped: str
) -> None:
    migrations.rollback(db, to=0)
    migrations.apply(db, project.path)
    assert migrations.dump_schema(db) == dumped


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda text: text.replace("key faa", "key fax"), r"schema:\d+: fax is not a field of the model"),
        (lambda text: text.replace("key faa", ""), r"schema:\d+: table airports has no key"),
        (lambda text: text.replace("table airports", "tablet airports"), r"schema:\d+: expected a migration"),
        (lambda text: text.replace("TYPE_STRING", "TYPE_STRONG", 1), r"schema:\d+: .*TYPE_STRONG"),
        (
            lambda text: text.replace("index by_lat", "indox by_lat"),
            r"schema:\d+: expected a key, an index or a ttl",
        ),
        (
            lambda text: text.replace("number: 1 ", 'number: 1 json_name: "\\." ', 1),
            r"schema:\d+: .*invalid escape",
        ),
    ],
)
def test_a_text_that_is_none_is_told_with_its_line(
    dumped: str, harm: Callable[[str], str], said: str
) -> None:
    with pytest.raises(SchemaError, match=said):
        from_text(harm(dumped), "schema")
