"""Waves: every rollout of a few members, with every order of events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import msgspec
import pytest

from everlog import MigrationError, RowError
from everlog.fleet.survey import Survey
from everlog.fleet.waves import (
    DEFAULT,
    GATES,
    Gate,
    Rollout,
    RolloutState,
    Task,
    approve,
    began,
    checked,
    due,
    ended,
    returned,
    roll_back,
    split,
    stop,
    tick,
)
from tests.fleet.test_plan import database, surveyed

WAVES = (("a",), ("b", "c"))
PAUSE_NS = 10


def shops(count: int) -> list[Survey]:
    """Return shops in two regions; the second is a canary, and the last has no label."""
    found = [surveyed(number, labels={"region": "eu" if number % 2 else "us"}) for number in range(1, count)]
    found[1] = msgspec.structs.replace(found[1], labels={"region": "us", "canary": "true"})
    return [*found, surveyed(count, labels={})]


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        (DEFAULT, [1, 10, 50, 139]),
        (("1", "5%", "25%", "100%"), [1, 10, 50, 139]),
        (("canary", "rest"), [1, 199]),
        (("by region",), [100, 99, 1]),
        (("canary", "by region"), [1, 100, 98, 1]),
        (("region=us,!canary", "1", "rest"), [98, 1, 101]),
        (("rest", "1"), [200]),
        (("none", "rest"), [200]),
        (("300",), [200]),
    ],
)
def test_members_are_split_into_waves(words: tuple[str, ...], sizes: list[int]) -> None:
    waves = split(reversed(shops(200)), words)
    assert [len(wave) for wave in waves] == sizes
    assert sorted(one for wave in waves for one in wave) == [database(number) for number in range(1, 201)]


def test_a_small_fleet_has_a_canary_too() -> None:
    assert split(shops(3)) == ((database(1),), (database(2),), (database(3),))


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("1",), "9 members would be in no wave, the first is shop-2; end the waves with `rest`"),
        (("0", "rest"), "expected a wave of 1 or more members, or of 1% to 100%, found '0'"),
        (("101%",), "found '101%'"),
        (("", "rest"), "expected a wave: a number, a share such as 5%, `by LABEL`, a selector or `rest`"),
        (("region=", "rest"), "found '' in the condition on region of the selector 'region='"),
    ],
)
def test_invalid_waves_are_refused(words: tuple[str, ...], error: str) -> None:
    with pytest.raises(RowError, match=error):
        split(shops(10), words)


def test_a_rollout_needs_each_member_in_one_wave() -> None:
    for waves in ((), ((),), (("a",), ("a",))):
        with pytest.raises(MigrationError, match="expected waves with members, each in one wave"):
            Rollout(waves)


def events(rollout: Rollout) -> Iterator[Rollout]:
    """Yield what every event that can happen, also one that comes late or twice, makes of a rollout."""
    tries: list[Callable[[], Rollout]] = [
        partial(tick, rollout, now_ns=rollout.until_ns),
        partial(stop, rollout, reason="an operator"),
        partial(roll_back, rollout),
    ]
    for wave in range(len(WAVES)):
        tries += [partial(checked, rollout, wave, failure=failure) for failure in ("", "slow")]
        tries.append(partial(approve, rollout, wave))
    for member in (one for wave in WAVES for one in wave):
        tries.append(partial(began, rollout, [member]))
        tries += [partial(ended, rollout, member, now_ns=5, failure=failure) for failure in ("", "failed")]
        tries += [partial(returned, rollout, member, failure=failure) for failure in ("", "failed")]
    for attempt in tries:
        try:
            after = attempt()
        except MigrationError:  # refused
            continue
        yield after


def check(before: Rollout, after: Rollout) -> None:
    """Check the invariants of a step."""
    state, wave = after.state, set(after.waves[after.wave])
    earlier = {one for group in after.waves[: after.wave] for one in group}
    later = {one for group in after.waves[after.wave + 1 :] for one in group}
    failed = {member for member, _ in after.failed}
    assert not (later & (after.begun | after.upgraded | failed)), "a later wave has not begun"
    assert after.upgraded <= after.begun
    if state in (RolloutState.RUNNING, *GATES):
        assert earlier <= after.upgraded
        assert not failed
    if state in GATES or state is RolloutState.FINISHED:
        assert wave <= after.upgraded
    if after.wave != before.wave:
        assert after.wave == before.wave + 1
        assert before.state is _last_gate(after.gate)
    if before.state not in (RolloutState.RUNNING, *GATES):
        assert after.begun == before.begun, "nothing begins after a stop"
        assert after.wave == before.wave
    if after.upgraded - before.upgraded:
        assert before.state in (RolloutState.RUNNING, RolloutState.STOPPING)
    if before.upgraded - after.upgraded:
        (gone,) = before.upgraded - after.upgraded
        assert before.state is RolloutState.RETURNING
        place = next(number for number, group in enumerate(WAVES) if gone in group)
        rest = {one for group in WAVES[place + 1 :] for one in group}
        assert not (rest & before.upgraded - before.tried), "later waves first"
    if state is RolloutState.RETURNED:
        assert after.upgraded == after.tried


def _last_gate(gate: Gate) -> RolloutState:
    """Return the state from which the next wave begins."""
    on = (gate.pause_ns, gate.check, gate.approval)
    return [RolloutState.RUNNING, *(state for state, one in zip(GATES, on, strict=True) if one)][-1]


def carried_out(rollout: Rollout) -> Rollout:
    """Carry out what is due, without failures, until nothing is."""
    for _ in range(30):
        if rollout.state is RolloutState.PAUSING:
            rollout = tick(rollout, now_ns=rollout.until_ns)
        for task in due(rollout):
            if task.task is Task.UPGRADE:
                rollout = began(rollout, task.members)
                for member in task.members:
                    rollout = ended(rollout, member, now_ns=5)
            elif task.task is Task.CHECK:
                rollout = checked(rollout, task.wave)
            elif task.task is Task.APPROVE:
                rollout = approve(rollout, task.wave)
            else:
                for member in task.members:
                    rollout = returned(rollout, member)
    return rollout


@pytest.mark.parametrize(
    "gate", [Gate(), Gate(PAUSE_NS, check=True, approval=True), Gate(check=True), Gate(approval=True)]
)
def test_every_rollout_keeps_the_invariants_and_ends(gate: Gate) -> None:
    begin = Rollout(WAVES, gate)
    seen, queue, ends = {begin}, [begin], set[RolloutState]()
    for before in queue:
        for after in events(before):
            check(before, after)
            if after not in seen:
                seen.add(after)
                queue.append(after)
        end = carried_out(before)
        assert not due(end)
        ends.add(end.state)
    assert ends == {RolloutState.FINISHED, RolloutState.STOPPED, RolloutState.RETURNED}
    assert {one.state for one in seen} >= {RolloutState.STOPPING, RolloutState.RETURNING}


def test_a_pause_ends_at_its_time() -> None:
    rollout = began(Rollout(WAVES, Gate(PAUSE_NS)), ["a"])
    rollout = ended(rollout, "a", now_ns=100)
    assert (rollout.state, rollout.until_ns, due(rollout)) == (RolloutState.PAUSING, 110, ())
    assert tick(rollout, now_ns=109) == rollout
    assert tick(rollout, now_ns=110).state is RolloutState.RUNNING


def test_a_failure_lets_those_that_have_begun_end_and_begins_no_other() -> None:
    rollout = Rollout((("a", "b", "c"), ("d",)))
    rollout = ended(began(rollout, ["a", "b"]), "a", now_ns=5, failure="disk full")
    assert (rollout.state, due(rollout)[0].members) == (RolloutState.STOPPING, ("b",))
    assert began(rollout, ["c"]) == rollout
    rollout = ended(rollout, "b", now_ns=5)
    assert (rollout.state, rollout.reason, rollout.failed) == (
        RolloutState.STOPPED,
        "disk full",
        (("a", "disk full"),),
    )
    rollout = returned(roll_back(rollout), "b", failure="down")
    assert (rollout.state, rollout.upgraded) == (RolloutState.RETURNED, frozenset({"b"}))
    rollout = returned(roll_back(rollout), "b")
    assert (rollout.state, rollout.upgraded, rollout.failed) == (
        RolloutState.RETURNED,
        frozenset(),
        (("a", "disk full"),),
    )


def test_an_approval_is_about_one_wave() -> None:
    rollout = ended(began(Rollout(WAVES, Gate(approval=True)), ["a"]), "a", now_ns=5)
    assert approve(rollout, 0).state is RolloutState.RUNNING
    with pytest.raises(
        MigrationError, match="does not wait for approval after wave 1: it is running at wave 2 of 2"
    ):
        approve(approve(rollout, 0), 0)
    with pytest.raises(MigrationError, match="is running and cannot be rolled back: stop it first"):
        roll_back(Rollout(WAVES))
