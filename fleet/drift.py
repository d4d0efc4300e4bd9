"""Drift: which members of a fleet have other folders, or another schema, than most of them.

    surveys ─▶ groups of members that are alike, the largest first ─▶ how each differs from the largest

Members are alike if they have the same version, the same folders, the same applied digests, and the same
schema. Of two groups of one size the one with the newer version is first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from everlog.fleet.survey import SHORT, Survey, SurveyedMigration
from everlog.migrations.status import State

_DAMAGE = {
    State.EDITED: "was edited after it was applied; restore its folder (`everlog restore-folders`)",
    State.MISSING: "was applied, and its folder is missing; restore it (`everlog restore-folders`)",
}


class Group(NamedTuple):
    """Members that are alike, by name. `differences`: damage, and differences from the largest group, a
    clause each."""

    version: int
    members: tuple[str, ...]
    differences: tuple[str, ...] = ()


def drift(surveys: Iterable[Survey]) -> list[Group]:
    """Return the groups of members that are alike, the largest first. One group without differences: there
    is no drift."""
    alike = defaultdict[object, list[Survey]](list)
    for one in sorted(surveys, key=lambda one: one.name):
        migrations = tuple((entry.version, entry.state, entry.digest) for entry in one.migrations)
        alike[one.version, one.folders, one.schema, migrations].append(one)
    groups = sorted(alike.values(), key=lambda group: (-len(group), -group[0].version, group[0].name))
    return [
        Group(group[0].version, tuple(one.name for one in group), tuple(_all(group[0], groups[0][0])))
        for group in groups
    ]


def _all(one: Survey, most: Survey) -> Iterator[str]:
    yield from _damaged(one)
    if one is not most:
        yield from _differences(one, most)


def _damaged(one: Survey) -> Iterator[str]:
    for entry in one.migrations:
        if (what := _DAMAGE.get(State(entry.state))) is not None:
            yield f"{entry.title} {what}"


def _differences(one: Survey, most: Survey) -> Iterator[str]:
    """Yield how a member differs from most others."""
    if one.version != most.version:
        yield f"version {one.version} instead of {most.version}"
    here = {entry.version: entry for entry in one.migrations}
    there = {entry.version: entry for entry in most.migrations}
    same = True
    for version in sorted(here.keys() | there.keys()):
        found = list(_of_migration(here.get(version), there.get(version)))
        same = same and not found
        yield from found
    if same and one.version == most.version and one.schema and most.schema and one.schema != most.schema:
        yield "another schema at the same version, with the same folders; compare `everlog dump`"


def _of_migration(here: SurveyedMigration | None, there: SurveyedMigration | None) -> Iterator[str]:
    if here is None:
        assert there is not None
        yield f"no migration {there.title}"
        return
    if there is None:
        yield f"a migration {here.title} of its own"
        return
    if here.digest and there.digest and here.digest != there.digest:
        found, expected = here.digest[:SHORT], there.digest[:SHORT]
        yield f"another {here.title} was applied: digest {found} instead of {expected}"
    if here.folder != there.folder:
        found, expected = here.folder[:SHORT] or "none", there.folder[:SHORT] or "none"
        yield f"another folder of {here.title}: digest {found} instead of {expected}"
    if here.state != there.state and State.EDITED not in (here.state, there.state):
        yield f"{here.title} is {here.state} instead of {there.state}"
