"""Plans of a fleet: what they contain, what they refuse, and when they are stale."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlog import CorruptionError, MigrationError
from everlog.fleet.plan import FleetPlan, changes, decode_plan, draft, refusals, target_of
from everlog.fleet.protocol import Target
from everlog.fleet.survey import Intended, Survey, SurveyedMigration
from everlog.migrations.estimate import Estimate
from everlog.migrations.proposal import FindingEntry, StepEntry, plan_digest
from everlog.store.upkeep.status import software

ONE, TWO, THREE = 20260101000000, 20260101000001, 20260101000002
ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "fleet_plan.json"
WARNING = FindingEntry("test/no-tests", "warning", f"v{TWO}_two/__init__.py", 1, "it has no tests")


def database(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012}"


def steps(rows: int = 1000) -> list[StepEntry]:
    return [
        StepEntry("add field last", True, 0),
        StepEntry(f"rewrite {rows:,} rows of airports", False, rows),
    ]


def surveyed(number: int, **changed: Any) -> Survey:
    """Return a shop whose second migration is pending."""
    one = Survey(
        database(number),
        f"shop-{number}",
        f"{database(number)}:{10 * number}:0000000{number}",
        software(),
        ONE,
        "f0" * 32,
        {"region": "eu"},
        migrations=[
            SurveyedMigration(ONE, "one", "applied", "a0" * 32, "a0" * 32),
            SurveyedMigration(TWO, "two", "pending", "", "b0" * 32),
        ],
        intended=Intended(
            TWO, "two", "b0" * 32, steps(), Estimate(1000, 0.5, 0.0, 5000, 0, 9000, ["airports"])
        ),
        findings=[WARNING],
        linted=True,
    )
    return msgspec.structs.replace(one, **changed)


def intended(**changed: Any) -> Intended:
    found = surveyed(1).intended
    assert found is not None
    return msgspec.structs.replace(found, **changed)


def fleet(count: int = 3) -> list[Survey]:
    return [surveyed(number) for number in range(1, count + 1)]


def upgraded(number: int) -> Survey:
    one = surveyed(number, version=TWO, intended=None)
    return msgspec.structs.replace(
        one, migrations=[msgspec.structs.replace(entry, state="applied") for entry in one.migrations]
    )


def test_a_plan_has_each_member_and_the_totals() -> None:
    plan = draft([*reversed(fleet()), upgraded(4)], hold=True)
    assert [(one.name, one.from_version, one.to_version) for one in plan.members] == [
        (f"shop-{number}", ONE, TWO) for number in (1, 2, 3)
    ]
    assert plan.migration.steps == ["add field last", "rewrite rows of airports"]
    assert plan.members[0].steps == [0, 1]
    assert (plan.totals.members, plan.totals.rows, plan.totals.bytes) == (3, 3000, 15000)
    assert (plan.totals.seconds, plan.totals.longest_s) == (1.5, 0.5)
    assert (plan.findings, plan.errors) == ([WARNING], [])
    assert plan.targets()[0] == Target(bytes(15) + b"\1", ONE, TWO, b"\xf0" * 32, hold=True)


@given(st.permutations(range(1, 6)))
def test_the_order_of_the_surveys_does_not_matter(numbers: list[int]) -> None:
    assert draft(map(surveyed, numbers)).encode() == draft(fleet(5)).encode()


def test_a_document_is_read_as_it_was_written() -> None:
    plan = draft(fleet())
    document = plan.encode()
    assert decode_plan(document) == plan
    assert plan.digest == plan_digest(document) == hashlib.sha256(document).digest()
    assert draft(fleet(4)).digest != plan.digest
    with pytest.raises(CorruptionError, match="expected the plan of a fleet as JSON, found: "):
        decode_plan(b"{}")


def test_the_bytes_of_a_plan_stay_as_they_are() -> None:
    document = GOLDEN.read_bytes()
    plan = decode_plan(document)
    assert plan.encode() == document
    surveys = [
        surveyed(1, labels={}),
        surveyed(2, intended=intended(estimate=Estimate(2000, 1.0, 0.25, 10000, 0, 90000))),
    ]
    assert draft(surveys).encode() == document
    assert changes(plan, surveys) == []


def test_the_page_describes_every_key_of_a_plan() -> None:
    page = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    section = page.partition("\n## Plans of a fleet\n")[2].partition("\n## ")[0]
    document: dict[str, Any] = msgspec.json.decode(GOLDEN.read_bytes())
    nested = [document["migration"], document["members"][0], document["findings"][0], document["totals"]]
    for key in {key for one in (document, *nested) for key in one}:
        assert f"`{key}`" in section, key
    assert re.search(r"digest is `([0-9a-f]{64})`", section)[1] == plan_digest(GOLDEN.read_bytes()).hex()  # type: ignore[index]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"problem": f"migration {TWO}_two waits for decision x"}, f"migration {TWO}_two waits for"),
        (
            {"software": "everlog 99.0.0"},
            "it is served by everlog 99.0.0, and this is .*; update this everlog",
        ),
        ({"migrations": [], "intended": None}, f"its code has no migration {TWO} .its newest is 0.; deploy"),
        ({"intended": intended(unheld="checks.py is run")}, "checks.py is run; or upgrade in waves"),
        (
            {"intended": intended(steps=[StepEntry("FAILS: 2 rows", False, 2, True)])},
            "FAILS: 2 rows; fix its rows or the migration",
        ),
        (
            {"intended": intended(estimate=Estimate(bytes=5000, free_bytes=4000))},
            "it needs 5,000 bytes of disk until the upgrade has ended, and 4,000 are free",
        ),
        ({"name": "shop-1"}, f"database {database(1)} has the same name; rename one of them"),
        ({"database": database(1)}, "it is the same database as shop-1, .*; remove one of the two"),
    ],
)
def test_a_member_that_cannot_be_upgraded_is_named_with_the_reason(changed: Any, reason: str) -> None:
    surveys = [surveyed(1), surveyed(2, **changed), surveyed(3)]
    found = refusals(surveys, TWO)
    assert [one.name for one in found] == [changed.get("name", "shop-2")]
    assert re.match(reason, found[0].reason), found[0].reason
    with pytest.raises(MigrationError, match="1 member of 3 cannot be upgraded in unison to ") as raised:
        draft(surveys, TWO)
    assert raised.value.refusals == found


def test_another_folder_than_the_others_have_is_refused() -> None:
    other = [SurveyedMigration(TWO, "two", "pending", "", "c0" * 32)]
    found = refusals([surveyed(1), surveyed(2, migrations=other), surveyed(3)], TWO)
    assert len(found) == 1
    assert str(found[0]) == (
        f"shop-2: its folder of {TWO}_two has digest c0c0c0c0c0c0 instead of b0b0b0b0b0b0, the most"
        " common one; deploy the same code"
    )


def test_a_run_applies_one_migration() -> None:
    more = SurveyedMigration(THREE, "three", "pending", "", "c0" * 32)
    surveys = [surveyed(number, migrations=[*surveyed(1).migrations, more]) for number in (1, 2)]
    assert target_of(surveys) == TWO
    assert draft(surveys).to_version == TWO
    assert refusals(surveys, THREE)[0].reason == (
        f"2 migrations are pending there up to {THREE}, and a run applies one; upgrade to {TWO}_two first"
        f" (`--to-version {TWO}`)"
    )


def test_a_migration_that_no_vote_can_hold_may_go_in_waves() -> None:
    surveys = [surveyed(1), surveyed(2, intended=intended(unheld="checks.py is run at the switch"))]
    plan = draft(surveys, unison=False)
    assert [one.unheld for one in plan.members] == ["", "checks.py is run at the switch"]
    assert changes(plan, surveys) == []


def test_an_up_to_date_fleet_has_nothing_to_plan() -> None:
    for surveys in ([], [upgraded(1), upgraded(2)]):
        with pytest.raises(MigrationError, match="has a pending migration, so there is nothing to plan"):
            draft(surveys)


OTHER_FOLDER = f"shop-2 has other code: {TWO}_two was edited, its folder has digest"
OTHER_CODE = f"shop-2 has other code: its folders have digest {'e0' * 6} instead of {'f0' * 6}"


def planned() -> FleetPlan:
    return draft(fleet())


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"version": TWO}, f"shop-2 moved: it is at version {TWO} instead of {ONE}"),
        ({"name": "kiosk"}, "shop-2 is now named kiosk"),
        (
            {"at": f"{database(2)}:19:00000002"},
            "shop-2 went back: its newest record is 19, it was 20; it was restored from a backup",
        ),
        (
            {"at": f"{database(2)}:20:00000009"},
            "shop-2 is a fork: its record 20 has another checksum than when it was planned",
        ),
        (
            {"folders": "e0" * 32},
            OTHER_CODE,
        ),
        (
            {
                "folders": "e0" * 32,
                "migrations": [SurveyedMigration(TWO, "two", "pending", "", "c0" * 32)],
            },
            f"{OTHER_FOLDER} {'c0' * 6} instead of {'b0' * 6}",
        ),
        (
            {
                "folders": "e0" * 32,
                "migrations": [
                    SurveyedMigration(ONE, "one", "edited", "a0" * 32, "a1" * 32),
                    SurveyedMigration(TWO, "two", "pending", "", "b0" * 32),
                ],
            },
            f"{OTHER_CODE} ({ONE}_one was edited or is missing)",
        ),
        ({"folders": "e0", "migrations": []}, f"shop-2 has other code: it has no migration {TWO} any more"),
        ({"problem": "x is in progress"}, "shop-2 cannot be migrated any more: x is in progress"),
        ({"intended": None}, f"shop-2 would not be upgraded to {TWO} next"),
        (
            {"intended": intended(unheld="checks.py is run")},
            "shop-2 cannot wait for a decision any more: checks.py is run",
        ),
        (
            {"intended": intended(steps=[*steps(), StepEntry("FAILS: `up` fails", False, 1, True)])},
            "shop-2: FAILS: `up` fails",
        ),
        ({"intended": intended(steps=steps()[1:])}, "shop-2 no longer does: add field last"),
        (
            {"intended": intended(steps=[*steps(), StepEntry("drop table b", True, 0)])},
            "shop-2 now does: drop table b",
        ),
        (
            {"findings": [WARNING, msgspec.structs.replace(WARNING, line=7)]},
            f"v{TWO}_two/__init__.py:7: test/no-tests is a new finding (it has no tests)",
        ),
    ],
)
def test_a_plan_is_stale_with_the_reason(changed: Any, sentence: str) -> None:
    assert changes(planned(), [surveyed(1), surveyed(2, **changed), surveyed(3)]) == [sentence]


def test_members_that_join_and_leave_make_a_plan_stale() -> None:
    assert changes(planned(), [surveyed(1), surveyed(3), surveyed(4), upgraded(5)]) == [
        f"shop-2 left: database {database(2)} is not surveyed any more",
        f"shop-4 joined, at version {ONE}: database {database(4)} is not in the plan",
    ]


def test_other_rows_and_a_later_position_leave_a_plan_valid() -> None:
    later = surveyed(2, at=f"{database(2)}:25:0000000a", intended=intended(steps=steps(1200)))
    assert changes(planned(), [surveyed(1), later, surveyed(3)]) == []
