"""The changes after which a plan differs from the one that was shown, and those after which it does not."""

from __future__ import annotations

import msgspec
import pytest

from everlog import MigrationError, migrations
from everlog.migrations import Approval
from everlog.migrations.approval.approval import differences
from everlog.migrations.dry_run import RemakeTrial
from everlog.migrations.plan import remake_step
from everlog.migrations.proposal import Plan, ProposalState, StepEntry
from everlog.store.database import Database
from tests.migrations.approving import INDEXED, proposed, put, put_file
from tests.migrations.project import Project
from tests.migrations.test_online import Airports
from tests.migrations.test_plan_document import PLAN


def test_an_approval_of_what_has_changed_since_is_refused_and_says_what(
    approval: Approval, project: Project
) -> None:
    digest = proposed(approval).digest.hex()
    put_file(project.folders[1], "# edited\n")
    with pytest.raises(MigrationError, match=r"_two was edited: __init__.py has changed") as caught:
        approval.approve(digest, actor="ann", reason="yes")
    assert caught.value.digest == digest
    old, new = approval.proposals()
    assert (old.state, new.state) == (ProposalState.SUPERSEDED, ProposalState.WAITING)
    assert (new.proposed.actor, new.proposed.reason) == ("deploy", "release 7")
    assert f"The current proposal is {new.short}" in str(caught.value)


def test_a_folder_more_is_another_plan(approval: Approval, project: Project) -> None:
    digest = proposed(approval).digest.hex()
    project.add("three", drop=', drop=["airports.by_name"]')
    project.build()
    with pytest.raises(MigrationError, match=r"migration \d+_three is new"):
        approval.approve(digest, actor="ann", reason="yes")


def test_a_table_that_was_empty_and_is_not_is_another_plan(project: Project, db: Database) -> None:
    project.add("one")
    migrations.apply(db, project.build().path)
    project.add("two", table=INDEXED)
    approval = Approval(db, project.build().path)
    digest = proposed(approval).digest.hex()
    put(approval, "JFK", "Kennedy")
    with pytest.raises(MigrationError, match=r"does: build index airports.by_name over 1 row"):
        approval.approve(digest, actor="ann", reason="yes")


def test_what_was_applied_in_another_way_takes_the_place_of_a_proposal(approval: Approval) -> None:
    digest = proposed(approval).digest.hex()
    migrations.apply(approval.db, approval.source)
    assert [one.state for one in approval.proposals()] == [ProposalState.SUPERSEDED]
    with pytest.raises(MigrationError, match="already decided: superseded"):
        approval.approve(digest, actor="ann", reason="yes")


def test_the_same_is_proposed_once_however_often_and_whatever_is_written(
    approval: Approval, project: Project
) -> None:
    found = proposed(approval)
    put(approval, "LAX", "Los Angeles")
    assert proposed(approval).digest == found.digest
    assert len(approval.proposals()) == 1
    put_file(project.folders[1], "# another\n")
    assert proposed(approval).digest != found.digest
    assert [one.state for one in approval.proposals()] == [ProposalState.SUPERSEDED, ProposalState.WAITING]


def test_what_was_approved_and_edited_before_it_ran_is_not_applied(
    approval: Approval, project: Project
) -> None:
    approval.approve(proposed(approval).digest.hex(), actor="ann", reason="yes")
    put_file(project.folders[1], "# edited\n")
    with pytest.raises(MigrationError, match="_two was edited after it was approved"):
        approval.run()
    assert approval.proposals()[-1].state is ProposalState.FAILED
    assert proposed(approval).state is ProposalState.WAITING


def test_every_row_is_tried_and_a_row_that_comes_to_fail_is_another_plan(
    project: Project, db: Database
) -> None:
    airports = Airports(project, db, rows=10)
    approval = Approval(db, airports.path)
    shown = proposed(approval)
    texts = [step.text for step in shown.plan.migrations[0].steps]
    assert "`up` of airports was tried on 10 rows and succeeds for all" in texts
    db.put(airports.old, airports.old_row(11))
    assert proposed(approval).digest == shown.digest
    db.put(airports.old, airports.old.model(faa="bad", name="nothing-to-split"))
    with pytest.raises(MigrationError, match=r"does: `up` of airports FAILS for 1 of 12 rows, the first"):
        approval.approve(shown.short, actor="ann", reason="yes")
    worse = approval.proposals()[-1]
    assert [step.problem for step in worse.plan.migrations[0].steps].count(True) == 1
    db.put(airports.old, airports.old.model(faa="worse", name="nothing"))
    assert proposed(approval).digest == worse.digest
    for faa in ("bad", "worse"):
        db.delete(airports.old, faa)
    approval.approve(proposed(approval).short, actor="ann", reason="yes")
    assert approval.run().state is ProposalState.FINISHED
    assert db.count(airports.new) == 11


def test_a_measured_duration_is_not_another_plan() -> None:
    def planned(rows: int, seconds: float) -> Plan:
        tried = remake_step(RemakeTrial(rows, seconds), "up").text
        checked = f"checks.py was tried on the current rows in {seconds * 1000:,.0f} ms and succeeds"
        steps = [StepEntry(text, True, 0) for text in (tried, checked)]
        return msgspec.structs.replace(
            PLAN, migrations=[msgspec.structs.replace(PLAN.migrations[0], steps=steps)]
        )

    assert not differences(planned(10, 0.01), planned(12, 3.5))
    assert differences(planned(10, 0.01), planned(0, 0.01))
