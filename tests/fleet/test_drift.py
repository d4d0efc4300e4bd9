"""Drift: members with other folders, or another schema, than most."""

from __future__ import annotations

import msgspec

from everlog.fleet.drift import Group, drift
from everlog.fleet.survey import Survey, SurveyedMigration
from tests.fleet.test_plan import ONE, THREE, TWO, fleet, surveyed, upgraded


def migrations(one: Survey, version: int, **changed: str) -> list[SurveyedMigration]:
    return [
        msgspec.structs.replace(entry, **changed) if entry.version == version else entry
        for entry in one.migrations
    ]


def test_members_that_are_alike_do_not_drift() -> None:
    assert drift(fleet()) == [Group(ONE, ("shop-1", "shop-2", "shop-3"))]
    assert drift([]) == []


def test_each_group_says_how_it_differs_from_most() -> None:
    one = surveyed(1)
    own = SurveyedMigration(THREE, "three", "pending", "", "c0" * 32)
    surveys = [
        *(surveyed(number, schema="aa") for number in (1, 2, 3)),
        surveyed(4, schema="aa", folders="01", migrations=migrations(one, TWO, folder="c0" * 32)),
        surveyed(5, schema="bb"),
        surveyed(6, schema="aa", folders="02", migrations=[*one.migrations, own]),
        surveyed(7, schema="aa", folders="03", migrations=one.migrations[:1]),
        surveyed(8, schema="cc", migrations=migrations(one, ONE, digest="d0" * 32, state="edited")),
        msgspec.structs.replace(upgraded(9), schema="dd"),
        surveyed(10, schema=""),
    ]
    groups = drift(surveys)
    assert (groups[0].members, groups[0].differences) == (("shop-1", "shop-2", "shop-3"), ())
    assert {group.members: group.differences for group in groups[1:]} == {
        ("shop-9",): (f"version {TWO} instead of {ONE}", f"{TWO}_two is applied instead of pending"),
        ("shop-10",): (),
        ("shop-4",): (f"another folder of {TWO}_two: digest c0c0c0c0c0c0 instead of b0b0b0b0b0b0",),
        ("shop-5",): ("another schema at the same version, with the same folders; compare `everlog dump`",),
        ("shop-6",): (f"a migration {THREE}_three of its own",),
        ("shop-7",): (f"no migration {TWO}_two",),
        ("shop-8",): (
            f"{ONE}_one was edited after it was applied; restore its folder (`everlog restore-folders`)",
            f"another {ONE}_one was applied: digest d0d0d0d0d0d0 instead of a0a0a0a0a0a0",
        ),
    }


def test_damage_that_most_members_have_is_named_too() -> None:
    damaged = migrations(surveyed(1), ONE, state="missing", folder="")
    surveys = [surveyed(number, folders="01", migrations=damaged) for number in (1, 2)]
    assert [group.differences for group in drift([*surveys, surveyed(3)])] == [
        (f"{ONE}_one was applied, and its folder is missing; restore it (`everlog restore-folders`)",),
        (
            f"another folder of {ONE}_one: digest a0a0a0a0a0a0 instead of none",
            f"{ONE}_one is applied instead of missing",
        ),
    ]
