"""The type checker's findings in a user's migrations and in code that uses them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.migrations.project import Project

ROOT = Path(__file__).parents[2]

CODE = """\
from collections.abc import Iterator
from random import Random
from everlog.migrations import INT32, STRING, Field, Fields, Index, Migration, Row, Table
from everlog.store.database import Database
from .model_pb2 import Airport

field = Fields(Airport)
FAA = field("faa", 1, STRING)
NAME = field("name", 2, STRING)
AIRPORTS = Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))
ROUTES = Table("routes", Airport, key=(FAA, field("alt", 3, INT32)))
MIGRATION = Migration(tables=[AIRPORTS, ROUTES])


def good(db: Database) -> str:
    for row in db.scan(AIRPORTS.by_name, "Kennedy"):
        print(row.alt)
    db.get(ROUTES, ("JFK", 13))
    airport = db.get(AIRPORTS, "JFK")
    return airport.name if airport else ""


def rows(random: Random, scale: int) -> Iterator[Row]:
    yield AIRPORTS, Airport(faa="JFK")
"""

WRONG = {
    'field("nmae", 2, STRING)': "incompatible type \"Literal['nmae']\"; expected \"Literal['alt', ",
    'Table("airports", Airport, key="faa")': 'No overload variant of "Table"',
    'Database("x").get(AIRPORTS, 7)': 'type parameter "K" of "get"',
    'Database("x").get(ROUTES, ("JFK", "13"))': 'type parameter "K" of "get"',
    'Database("x").put(AIRPORTS, MIGRATION)': 'type parameter "M" of "put"',
    'Database("x").get(AIRPORTS, "JFK").name': '"None" of "Airport | None" has no attribute "name"',
}


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_type_checker_finds_a_wrong_constant_at_its_line(project: Project) -> None:
    file = project.add(fields="string faa = 1; string name = 2; int32 alt = 3;") / "__init__.py"
    project.build()
    file.write_text(CODE + "\n".join(WRONG) + "\n")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "-p", f"{project.app}.migrations"],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(project.path.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not checked.stderr
    errors = [line for line in checked.stdout.splitlines() if ": error: " in line]
    first = CODE.count("\n") + 1
    for number, (code, said) in enumerate(WRONG.items(), first):
        (error,) = [line for line in errors if f"{file.name}:{number}: " in line]
        assert said in error, code
    assert len(errors) == len(WRONG), checked.stdout
