import pytest

from everlog import MigrationError, migrations
from everlog.store.database import Database
from tests.migrations.project import FIELDS, Project

CITY = {"bootstrap_airports.csv": "faa,city\nJFK,New York\n"}
ROWS = {"bootstrap_airports.csv": "faa\nJFK\nEWR\n"}


@pytest.fixture
def returned(project: Project, db: Database) -> Project:
    """Return a database in which a field was added, set in one of two rows, and rolled back."""
    project.add("one", files=ROWS)
    project.add("two", fields=f"{FIELDS} string city = 3;", files=CITY)
    migrations.apply(db, project.build().path)
    migrations.rollback(db)
    project.folders[1].rename(project.path.parent / "aside")
    return project


@pytest.mark.parametrize("field", ["string zip = 3;", "bytes city = 3;", "repeated string city = 3;"])
def test_another_field_under_the_number_of_one_that_was_rolled_back_is_refused(
    returned: Project, db: Database, field: str
) -> None:
    returned.add("three", version=20260101000005, fields=FIELDS + field)
    returned.build()
    name = field.split()[-3]
    head = db.head
    for call in (migrations.plan, migrations.apply):
        with pytest.raises(MigrationError, match=rf"gives airports {name} = 3, but city = 3, which commit"):
            call(db, returned.path)
    assert db.head == head


def test_another_number_and_the_same_field_are_taken(returned: Project, db: Database) -> None:
    returned.add("three", version=20260101000005, fields=f"{FIELDS} string city = 3; string zip = 4;")
    migrations.apply(db, returned.build().path)
    row = db.get(returned.load()[1].tables[0], "JFK")
    assert row is not None
    assert (row.city, row.zip) == ("New York", "")


def test_where_no_row_has_a_value_any_more_the_number_is_free(returned: Project, db: Database) -> None:
    table = returned.load()[0].tables[0]
    db.put(table, table.model(faa="JFK", name="Kennedy"))
    returned.add("three", version=20260101000005, fields=f"{FIELDS} string zip = 3;")
    migrations.apply(db, returned.build().path)
