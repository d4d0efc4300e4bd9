from everlog import migrations
from everlog.store.database import Database
from tests.migrations.project import Project
from tests.migrations.test_online import Airports


def test_a_plan_tries_up_on_the_real_rows_and_changes_nothing(project: Project, db: Database) -> None:
    airports = Airports(project, db, 300)
    head = db.head
    texts = [step.text for step in migrations.plan(db, airports.path, try_rows=True)[0].steps]
    assert "rewrite 300 rows of airports with `up`, and switch to them" in texts
    assert "`up` of airports was tried on 300 rows, and holds for all" in texts
    assert db.head == head


def test_it_says_which_row_would_stop_it_and_how_many(project: Project, db: Database) -> None:
    airports = Airports(project, db, 300)
    for number in (17, 200):
        db.put(airports.old, airports.old.model(faa=f"A{number:05}", name="Prince"))
    (problem,) = [step for step in migrations.plan(db, airports.path, try_rows=True)[0].steps if step.problem]
    assert problem.text.startswith(
        "`up` of airports FAILS for 2 of 300 rows, the first airports/A00017"
        ' {faa: "A00017" name: "Prince"}: ValueError'
    )
    assert problem.rows == 2
    assert not any(step.problem for step in migrations.plan(db, airports.path)[0].steps)


def test_a_key_that_changes_is_found(project: Project, db: Database) -> None:
    airports = Airports(project, db, 10)
    transform = project.load()[1].transforms["airports"]
    transform.up = lambda old: transform.table.model(faa=old.faa.lower(), first="x", last="y")
    (problem,) = [step for step in migrations.plan(db, airports.path, try_rows=True)[0].steps if step.problem]
    assert "it changes the primary key, to airports/a00000; leave it as it is" in problem.text
