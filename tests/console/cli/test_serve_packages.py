"""A server of two databases, each with its own migrations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.console import shop
from tests.console.conftest import Run
from tests.console.served import serving
from tests.migrations.project import Project

PLACES = ("books=file:books.db", "airports=file:airports.db")


@pytest.fixture
def airports(here: Path) -> Project:
    project = Project(here)
    project.add("create_airports", files={"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\n"})
    return project.build()


@pytest.fixture
def both(project: Path, airports: Project) -> tuple[str, ...]:
    """Return the arguments that name the migrations of each."""
    return ("--migrations", f"books={project}", "--migrations", f"airports={airports.path}")


def made(everlog: Run) -> None:
    for name in ("books", "airports"):
        assert everlog("-u", f"file:{name}.db", "create").code == 0


@pytest.mark.long
def test_auto_applies_to_each_what_is_its_own(everlog: Run, both: tuple[str, ...], airports: Project) -> None:
    made(everlog)
    with serving(*PLACES, "--migrate", "auto", *both) as served:
        url = served.url.rpartition("/")[0]
        (books,) = everlog("-u", f"{url}/books", "status", "--json").json
        (others,) = everlog("-u", f"{url}/airports", "status", "--json").json
        assert (books["schema_version"], books["pending"]) == (shop.SECOND, 0)
        assert (others["schema_version"], others["pending"]) == (airports.load()[-1].version, 0)
        assert [table["name"] for table in books["tables"]] == ["books"]
        assert [table["name"] for table in others["tables"]] == ["airports"]


def test_checked_proposes_to_each_what_is_its_own_and_the_pages_show_both(
    everlog: Run, both: tuple[str, ...], airports: Project
) -> None:
    made(everlog)
    with serving(*PLACES, "--migrate", "checked", *both) as served:
        url = served.url.rpartition("/")[0]
        found = {
            name: everlog("-u", f"{url}/{name}", "migrations", "proposals", "--json").json
            for name in ("books", "airports")
        }
        for name, to in (("books", shop.SECOND), ("airports", airports.load()[-1].version)):
            (one,) = found[name]
            assert (one["plan"]["name"], one["plan"]["to"], one["state"]) == (name, to, "waiting")
            assert served.page(one["digest"])["plan"]["name"] == name
        shown = json.loads(served.get("/migrations", Accept="application/json")[2])
        assert {one["plan"]["name"] for one in shown["proposals"]} == {"books", "airports"}
        (one,) = found["airports"]
        words = ("approve", one["digest"], "--actor", "ann", "--reason", "yes")
        assert "expected the digest of a proposal" in everlog("-u", f"{url}/books", *words).err
        assert everlog("-u", f"{url}/airports", *words).out.startswith("Finished: ")
        assert everlog("-u", f"{url}/airports", "scan", "airports", "--count").out == "1\n"
        (books,) = everlog("-u", f"{url}/books", "status", "--json").json
        assert (books["schema_version"], books["pending"]) == (0, 2)


def test_one_package_is_for_all_that_have_none_of_their_own(
    everlog: Run, project: Path, airports: Project
) -> None:
    made(everlog)
    words = ("--migrations", str(project), "--migrations", f"airports={airports.path}")
    with serving(*PLACES, *words) as served:
        url = served.url.rpartition("/")[0]
        assert everlog("-u", f"{url}/books", "up").out.count("Applied: ") == 2
        assert everlog("-u", f"{url}/airports", "up").out.count("Applied: ") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--migrations", "books=x", "--migrate", "auto"),
            "airports has no migrations: expected",
        ),
        (("--migrations", "users=x"), "this server has no database 'users'; it has: books, airports"),
        (
            ("--migrations", "x", "--migrations", "y"),
            "expected one package of migrations for all databases, found two",
        ),
        (
            ("--migrations", "books=x", "--migrations", "books=y"),
            "expected one package of migrations for books, found two",
        ),
        (("--migrations", "books="), "expected NAME=PACKAGE or PACKAGE, found no package"),
    ],
)
def test_what_cannot_be_is_said(everlog: Run, words: tuple[str, ...], says: str) -> None:
    made(everlog)
    ended = everlog("serve", *PLACES, "--listen", "127.0.0.1:0", *words)
    assert (ended.code, says in ended.err) == (1, True), ended.err


def test_two_directories_of_one_name_are_refused_with_the_way_out(everlog: Run, here: Path) -> None:
    made(everlog)
    paths = [here / name / "schemas" for name in ("one", "two")]
    for path in paths:
        path.mkdir(parents=True)
    words = ("--migrations", f"books={paths[0]}", "--migrations", f"airports={paths[1]}")
    ended = everlog("serve", *PLACES, "--listen", "127.0.0.1:0", *words)
    assert ended.code == 1
    assert "have the same package name, schemas; put them into packages with different names" in ended.err
