import re
from collections.abc import Iterator

import pytest

from everlog import Error, SchemaError
from everlog.migrations.folder import find, folders
from everlog.migrations.testing.cases import DERIVED, Skipped, Subject, UntrueError
from everlog.migrations.testing.template import close_templates, templates
from tests.migrations.project import Project

ROWS = "from . import *\nimport itertools\ndef rows(random, scale):\n    "
GOOD = f'{ROWS}yield AIRPORTS, Airport(faa="T1", name=str(random.random()))\n'


@pytest.fixture(autouse=True)
def removed() -> Iterator[None]:
    yield
    close_templates()


def subjects(project: Project) -> list[Subject]:
    return [Subject(templates(project.path), folder) for folder in folders(find(project.path))]


def run(name: str, project: Project) -> list[Exception | None]:
    """Return the result of a derived test for each folder."""
    said: list[Exception | None] = []
    for subject in subjects(project):
        try:
            DERIVED[name](subject)
        except (Error, UntrueError, Skipped) as error:
            said.append(error)
        else:
            said.append(None)
    return said


@pytest.mark.parametrize("name", DERIVED)
def test_folders_that_are_right_pass(project: Project, name: str) -> None:
    project.add("one", files={"testdata.py": GOOD, "bootstrap_airports.csv": "faa\nJFK\n"})
    indexed = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME, unique=True),))'
    project.add("two", files={"testdata.py": GOOD}, table=indexed)
    assert run(name, project.build()) == [None, None]


def test_a_folder_that_does_not_load_fails_alone_and_the_rest_is_skipped(project: Project) -> None:
    project.add("one")
    project.add("two", code='OTHER = field("name", 1, STRING)')
    first, second = run("constants_match_the_model", project.build())
    assert isinstance(first, Skipped)
    assert isinstance(second, SchemaError)
    assert str(project.folders[1]) in str(second)
    for name in DERIVED.keys() - {"constants_match_the_model"}:
        assert all(isinstance(said, Skipped) for said in run(name, project))


def test_a_step_that_the_data_of_the_version_before_does_not_take_fails(project: Project) -> None:
    twice = f'{ROWS}for n in "ab":\n        yield AIRPORTS, Airport(faa=n, name="same")\n'
    project.add("one", files={"testdata.py": twice})
    indexed = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME, unique=True),))'
    project.add("two", table=indexed)
    first, second = run("upgrades_with_data", project.build())
    assert first is None
    assert "same" in str(second)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            f"N = __import__('itertools').count()\n{ROWS}yield AIRPORTS, Airport(faa=str(next(N)))\n",
            "differ in row 1, of airports",
        ),
        (
            f"N = []\n{ROWS}N.append(1)\n    for _ in N:\n        yield AIRPORTS, Airport(faa='T')\n",
            "numbers of rows, 2 and 3",
        ),
        (f"{ROWS}yield 1 / 0\n", "ZeroDivisionError"),
        (f"{ROWS}yield AIRPORTS, Airport(name='T')\n", "lacks its key field"),
    ],
)
def test_test_data_that_does_not_load_or_is_not_of_the_seed_alone_fails(
    project: Project, code: str, said: str
) -> None:
    project.add("one", files={"testdata.py": code})
    (error,) = run("testdata_loads", project.build())
    assert said in str(error)


def test_what_lint_finds_fails_where_it_is(project: Project) -> None:
    project.add("one", files={"testdata.py": GOOD})
    project.add("two", fields="string faa = 1; reserved 2;", code="del NAME")
    first, second = run("lint_is_clean", project.build())
    assert first is None
    assert "model.proto" in str(second)
    assert "[loss/field-removed]" in str(second)


UP = """
    from ..v20260101000000_one.model_pb2 import Airport as Old

    def up(old: Old) -> Airport:
        return Airport(faa=old.faa, name=old.name.upper())

    def down(new: Airport) -> Old:
        return {down}
    """


@pytest.mark.parametrize(
    ("down", "said"),
    [
        ("Old(faa=new.faa, name=new.name.lower())", None),
        ("Old(faa=new.faa)", r"a row of airports differs after up, down and up: expected .*name: \"N\""),
    ],
)
def test_a_way_back_that_loses_what_the_way_there_needs_fails(
    project: Project, down: str, said: str | None
) -> None:
    named = f'{ROWS}yield AIRPORTS, Airport(faa="T1", name="n")\n'
    project.add("one", files={"testdata.py": named})
    transforms = ", transforms=[Transform(AIRPORTS, Old, up, down)]"
    project.add("two", code=UP.format(down=down), drop=transforms)
    _, second = run("up_down_up_equals_up", project.build())
    assert re.search(said, str(second)) if said else second is None
    assert run("down_leaves_no_trace", project)[1] is None


def test_without_a_way_back_it_is_not_tested(project: Project) -> None:
    project.add("one", files={"testdata.py": GOOD})
    project.add("two", code=UP.format(down="None"), drop=", transforms=[Transform(AIRPORTS, Old, up)]")
    for name in ("down_leaves_no_trace", "up_down_up_equals_up"):
        assert isinstance(run(name, project.build())[1], Skipped)


def test_a_folder_without_test_data_has_none_to_load(project: Project) -> None:
    project.add("one")
    assert [str(said) for said in run("testdata_loads", project.build())] == ["it has no testdata.py"]
