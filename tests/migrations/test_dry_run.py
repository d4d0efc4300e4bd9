from everlog import migrations
from everlog.store.database import Database
from tests.migrations.project import Project
from tests.migrations.test_online import Airports
from tests.migrations.test_remake import SPLIT, Split

CODE = """\
    from ..{before}.model_pb2 import Airport as Before


    def up(old: Before) -> Airport:
        if not old.name.endswith("{end}"):
            raise ValueError(old.name)
        return Airport(faa=old.faa, name=old.name + "!")

    """
TRANSFORM = ", transforms=[Transform(AIRPORTS, Before, up)]"


def test_a_plan_tries_up_on_the_real_rows_and_changes_nothing(project: Project, db: Database) -> None:
    airports = Airports(project, db, 300)
    head = db.head
    texts = [step.text for step in migrations.plan(db, airports.path, try_rows=True)[0].steps]
    assert any(
        text.startswith("rewrite 300 rows of airports with `up`, and switch to them") for text in texts
    )
    assert "`up` of airports was tried on 300 rows and succeeds for all" in texts
    assert db.head == head


def test_it_says_which_row_would_stop_it_and_how_many(project: Project, db: Database) -> None:
    airports = Airports(project, db, 300)
    for number in (17, 200):
        db.put(airports.old, airports.old.model(faa=f"A{number:05}", name="Prince"))
    (problem,) = [step for step in migrations.plan(db, airports.path, try_rows=True)[0].steps if step.problem]
    assert problem.text.startswith(
        "`up` of airports FAILS for 2 of 300 rows, the first airports/A00017: ValueError (at "
    )
    assert problem.private.startswith('airports/A00017 {faa: "A00017" name: "Prince"}: ValueError: ')
    assert problem.rows == 2
    assert not any(step.problem for step in migrations.plan(db, airports.path)[0].steps)


def test_a_key_that_changes_is_found(project: Project, db: Database) -> None:
    airports = Airports(project, db, 10)
    transform = project.load()[1].transforms["airports"]
    transform.up = lambda old: transform.table.model(faa=old.faa.lower(), first="x", last="y")
    (problem,) = [step for step in migrations.plan(db, airports.path, try_rows=True)[0].steps if step.problem]
    assert "it changes the primary key, which must stay the same" in problem.text
    assert problem.private.endswith("the key becomes airports/a00000")


def test_rows_go_through_one_up_after_the_other(project: Project, db: Database) -> None:
    first = project.add("one", files={"bootstrap_airports.csv": "faa,name\nJFK,x\nLGA,xx\n"})
    migrations.apply(db, project.build().path)
    project.add("two", code=CODE.format(before=first.name, end="x"), drop=TRANSFORM)
    third = project.add("three", fields="string faa = 1; string name = 2; string city = 3;")
    fields = "string faa = 1; string name = 2; string city = 3;"
    project.add(
        "four",
        fields=fields,
        code=CODE.format(before=third.name, end="xx!"),
        drop=TRANSFORM,
    )
    plan = migrations.plan(db, project.build().path, try_rows=True)
    tried = [step.text for one in plan for step in one.steps if step.text.startswith("`up` of")]
    which = "airports/JFK: ValueError (at v20260101000003_four/__init__.py:12)"
    assert tried == [
        "`up` of airports was tried on 2 rows and succeeds for all",
        f"`up` of airports FAILS for 1 of 2 rows, the first {which}",
    ]


def test_a_row_of_the_wrong_model_is_told_in_one_line(project: Project, db: Database) -> None:
    first = project.add("one", files={"bootstrap_airports.csv": "faa,name\nJFK,x\n"})
    migrations.apply(db, project.build().path)
    code = CODE.format(before=first.name, end="x").replace(
        "return Airport(faa=old.faa", "return Before(faa=old.faa"
    )
    project.add("two", code=code, drop=TRANSFORM)
    (problem,) = [
        step for step in migrations.plan(db, project.build().path, try_rows=True)[0].steps if step.problem
    ]
    assert f"found {project.app}.v{20260101000000}.Airport (at " in problem.text
    assert "\n" not in problem.text


def test_what_comes_of_rows_that_are_made_anew_is_not_tried(project: Project, db: Database) -> None:
    split = Split(project, db)
    code = CODE.format(before=project.folders[1].name, end="never")
    project.add("three", model=SPLIT["model"], code=code, drop=f'{TRANSFORM}, drop=["airports.by_city"]')
    plan = migrations.plan(db, project.build().path, try_rows=True)
    assert [one.version for one in plan] == [split.migration.version, 20260101000002]
    assert not any("was tried" in step.text or step.problem for step in plan[1].steps)
