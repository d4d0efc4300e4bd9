"""The rules of a fleet: all states of small fleets, and the answer to each order, one by one."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from everlog.fleet import protocol
from everlog.fleet.protocol import (
    Coordinator,
    Decision,
    Holding,
    Ledger,
    Member,
    Order,
    Phase,
    Report,
    Run,
    Target,
    Verb,
    Vote,
)
from tests.fleet.search import FOLDERS, Bounds, Search

PAGE = (Path(__file__).parent.parent.parent / "docs/fleet-protocol.md").read_text(encoding="utf-8")
ID, EARLIER = b"\xaa", b"\xbb"
ONE, TWO = (Target(database, 1, 2, FOLDERS) for database in (b"\x01", b"\x02"))
FULL = "the disk is full"

# What is searched, by its row in the page.
SHORT = {
    "one run, one takeover": Bounds(takeovers=1),
}
LONG = {
    "one run, removals, contractions": Bounds(takeovers=0, removals=True, contracts=True),
    "one run, two takeovers": Bounds(takeovers=2),
    "one run, one takeover, removals, contractions": Bounds(takeovers=1, removals=True, contracts=True),
    "one run, other migrations and deployments": Bounds(takeovers=0, local=True),
    "two runs": Bounds(takeovers=0, runs=2),
}


def search(name: str, bounds: Bounds) -> None:
    found = Search(protocol, bounds).run()
    sys.stdout.write(f"{name}: {found}\n")
    assert found.violation == ""
    assert f"| {name} | {found.states:,} |" in PAGE


@pytest.mark.parametrize("name", SHORT)
def test_no_state_of_a_small_fleet_breaks_an_invariant(name: str) -> None:
    search(name, SHORT[name])


@pytest.mark.long
@pytest.mark.parametrize("name", LONG)
def test_no_state_of_a_larger_fleet_breaks_an_invariant(name: str) -> None:
    search(name, LONG[name])


# The member


def table() -> list[tuple[Phase, Verb, Phase]]:
    """Return each cell of the page's table of orders: the phase, the order, the phase afterwards."""
    lines = PAGE.split("## Orders")[1].split("## ")[0].splitlines()
    rows = [re.findall(r"\w+", line) for line in lines if line.startswith("|")]
    verbs = [Verb(verb) for verb in rows[0][1:]]
    return [
        (Phase(phase), verb, Phase(after))
        for phase, *cells in rows[2:]
        for verb, after in zip(verbs, cells, strict=True)
    ]


def held(phase: Phase, decision_id: bytes = ID, fence: int = 3) -> Holding:
    version = 2 if phase in (Phase.COMMITTED, Phase.CONTRACTED) else 1
    return Holding(version, FOLDERS, phase, b"" if phase is Phase.IDLE else decision_id, fence)


def order(verb: Verb, fence: int = 3) -> Order:
    return Order(ID, fence, verb, ONE)


def test_the_table_has_each_phase_and_each_order() -> None:
    assert sorted((a.value, b.value) for a, b, _ in table()) == sorted(
        (a.value, b.value) for a in Phase for b in Verb
    )


@pytest.mark.parametrize(("phase", "verb", "expected"), table())
def test_each_order_has_one_answer_in_each_phase(phase: Phase, verb: Verb, expected: Phase) -> None:
    before = held(phase)
    holding, member, reports = protocol.obey(before, Member(ONE.database), order(verb))
    assert holding.phase is expected
    assert holding == before or holding == held(expected)
    assert reports == (Report(ONE.database, holding.decision_id, 3, expected),)
    assert (member.target is ONE) == (verb is Verb.PREPARE and expected is Phase.PREPARING)
    # The order again: the same answer, and no change.
    assert protocol.obey(holding, member, order(verb)) == (holding, member, reports)


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize("phase", Phase)
def test_an_order_with_a_lower_fence_changes_nothing(phase: Phase, verb: Verb) -> None:
    for before, member in (
        (held(phase, fence=4), Member(ONE.database)),
        (held(phase, fence=2), Member(ONE.database, fence=4)),
    ):
        holding, after, (report,) = protocol.obey(before, member, order(verb))
        assert (holding, after) == (before, member)
        assert (report.phase, report.fence, report.refusal) == (phase, 4, "")


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.IDLE])
def test_an_order_of_a_later_run_waits_for_the_end_of_the_earlier(phase: Phase, verb: Verb) -> None:
    before = replace(held(phase, EARLIER, fence=2), version=1)
    holding, _, (report,) = protocol.obey(before, Member(ONE.database), order(verb))
    if phase not in protocol.HELD:
        idle, _, _ = protocol.obey(held(Phase.IDLE), Member(ONE.database), order(verb))
        assert holding == (before if idle.phase is Phase.IDLE else idle)
    else:
        assert holding == before
        assert (report.refusal != "") == (verb is Verb.PREPARE)


def test_a_member_refuses_what_it_cannot_prepare_and_says_why() -> None:
    for before, reason in (
        (Holding(3, FOLDERS), "expected version 1, found 3"),
        (
            Holding(1, b"\xee"),
            "expected folders with digest 0f, found ee; open the database with the folders of the plan",
        ),
        (held(Phase.PREPARED, EARLIER), "the database is PREPARED in run bb, which only its decision ends"),
    ):
        holding, member, (report,) = protocol.obey(before, Member(ONE.database), order(Verb.PREPARE))
        assert (holding, member.target) == (before, None)
        assert report == Report(ONE.database, ID, 3, Phase.IDLE, reason)


def test_a_failed_build_is_a_refusal_that_is_kept() -> None:
    holding, member, _ = protocol.obey(Holding(1, FOLDERS), Member(ONE.database), order(Verb.PREPARE))
    holding, member, (report,) = protocol.failed(holding, member, FULL)
    assert report == Report(ONE.database, ID, 3, Phase.ABORTED, FULL)
    for verb in Verb:
        after, _, reports = protocol.obey(holding, Member(ONE.database), order(verb))
        assert (after, reports) == (holding, (report,))
    later = replace(order(Verb.PREPARE, fence=4), decision_id=EARLIER)
    assert protocol.obey(holding, member, later).holding == Holding(1, FOLDERS, Phase.PREPARING, EARLIER, 4)


def test_a_build_that_ends_after_the_abort_is_no_vote() -> None:
    holding, member, _ = protocol.obey(Holding(1, FOLDERS), Member(ONE.database), order(Verb.PREPARE))
    holding, member, _ = protocol.obey(holding, member, order(Verb.ABORT))
    assert protocol.built(holding, member) == (holding, member, ())
    assert protocol.failed(holding, member, FULL) == (holding, member, ())


def test_a_restart_forgets_the_build_and_keeps_the_vote() -> None:
    restarted = Member(ONE.database)
    for phase in Phase:
        assert protocol.ask(held(phase), restarted).holding == held(phase)
        assert protocol.built(held(phase), restarted).holding == held(phase)
        assert (protocol.local_refusal(held(phase)) != "") == (phase in protocol.HELD)


# The coordinator


def started() -> tuple[Ledger, Coordinator]:
    """Return a coordinator that has started a run of two members."""
    ledger, coordinator, *_ = protocol.take_over(Ledger())
    ledger, coordinator, orders, *_ = protocol.start(ledger, coordinator, ID, [ONE, TWO], deadline_ns=9)
    assert [(sent.verb, sent.target, sent.fence) for sent in orders] == [
        (Verb.PREPARE, ONE, 2),
        (Verb.PREPARE, TWO, 2),
    ]
    return ledger, coordinator


def reported(ledger: Ledger, coordinator: Coordinator, *phases: Phase) -> tuple[Ledger, Coordinator]:
    """Return the coordinator after a report of each member."""
    for target, phase in zip((ONE, TWO), phases, strict=False):
        report = Report(target.database, ID, 2, phase)
        ledger, coordinator, *_ = protocol.receive(ledger, coordinator, report)
    return ledger, coordinator


def run_of(ledger: Ledger) -> Run:
    return ledger.runs[0]


def test_all_votes_commit_and_all_ends_end_the_run() -> None:
    ledger, coordinator = reported(*started(), Phase.PREPARED)
    assert run_of(ledger).decision is None
    assert [sent.target for sent in protocol.retry(coordinator)] == [TWO]
    ledger, coordinator = reported(ledger, coordinator, Phase.PREPARED, Phase.PREPARED)
    assert run_of(ledger).decision is Decision.COMMIT
    assert {sent.verb for sent in protocol.retry(coordinator)} == {Verb.COMMIT}
    ledger, coordinator = reported(ledger, coordinator, Phase.COMMITTED, Phase.COMMITTED)
    assert protocol.retry(coordinator) == ()
    ledger, coordinator, orders, *_ = protocol.contract(ledger, coordinator, ID)
    assert {sent.verb for sent in orders} == {Verb.CONTRACT}
    ledger, coordinator = reported(ledger, coordinator, Phase.CONTRACTED, Phase.CONTRACTED)
    assert protocol.retry(coordinator) == ()


def test_a_refusal_aborts_and_its_reason_is_kept() -> None:
    ledger, coordinator = started()
    report = Report(TWO.database, ID, 2, Phase.IDLE, FULL)
    ledger, coordinator, orders, *_ = protocol.receive(ledger, coordinator, report)
    assert run_of(ledger).decision is Decision.ABORT
    assert (run_of(ledger).seats[1].vote, run_of(ledger).seats[1].reason) == (Vote.REFUSED, FULL)
    assert [(sent.target, sent.verb) for sent in orders] == [(ONE, Verb.ABORT), (TWO, Verb.ABORT)]


def test_a_failed_build_aborts_and_ends_the_run_at_its_member() -> None:
    ledger, coordinator = reported(*started(), Phase.PREPARED)
    report = Report(TWO.database, ID, 2, Phase.ABORTED, FULL)
    ledger, coordinator, orders, *_ = protocol.receive(ledger, coordinator, report)
    assert (run_of(ledger).decision, run_of(ledger).seats[1].reason) == (Decision.ABORT, FULL)
    assert [(sent.target, sent.verb) for sent in orders] == [(ONE, Verb.ABORT)]
    again = replace(report, database=ONE.database)
    assert protocol.receive(*started(), again).alarm == ""
    assert "is not aborted" in protocol.receive(*reported(*started(), Phase.PREPARED), again).alarm


def test_a_vote_that_is_unknown_at_the_deadline_is_a_refusal() -> None:
    ledger, coordinator = reported(*started(), Phase.PREPARED)
    assert protocol.expire(ledger, coordinator, ID, now_ns=8) == (ledger, coordinator, (), "", "")
    ledger, coordinator, *_ = protocol.take_over(ledger)  # the deadline is on disk
    step = protocol.expire(ledger, coordinator, ID, now_ns=9)
    assert run_of(step.ledger).decision is Decision.ABORT
    assert {sent.verb for sent in step.orders} == {Verb.ABORT}


def test_operators_decide_nothing_after_the_decision() -> None:
    ledger, coordinator = reported(*started(), Phase.PREPARED, Phase.PREPARED)
    for step in (
        protocol.abort(ledger, coordinator, ID),
        protocol.expire(ledger, coordinator, ID, now_ns=9),
        protocol.remove(ledger, coordinator, ID, ONE.database),
    ):
        assert step.ledger == ledger
        assert step.refusal == "run aa is decided: COMMIT"
    assert "has not committed" in protocol.contract(ledger, coordinator, ID).refusal


def test_a_removed_member_aborts_and_the_others_decide() -> None:
    ledger, coordinator = reported(*started(), Phase.PREPARED)
    ledger, coordinator, orders, *_ = protocol.remove(ledger, coordinator, ID, TWO.database)
    assert run_of(ledger).decision is Decision.COMMIT
    assert [(sent.target, sent.verb) for sent in orders] == [(ONE, Verb.COMMIT), (TWO, Verb.ABORT)]
    assert protocol.remove(ledger, coordinator, ID, b"\x09").refusal == "run aa has no member 09"


def test_each_order_is_sent_once_unless_it_is_repeated() -> None:
    plan = [replace(ONE, database=bytes([number])) for number in range(200)]
    ledger, coordinator, *_ = protocol.take_over(Ledger())
    ledger, coordinator, orders, *_ = protocol.start(ledger, coordinator, ID, reversed(plan), deadline_ns=9)
    sent = list(orders)
    for phase in (Phase.PREPARING, Phase.PREPARED, Phase.COMMITTED):
        for target in plan:
            report = Report(target.database, ID, 2, phase)
            ledger, coordinator, orders, *_ = protocol.receive(ledger, coordinator, report)
            sent += orders if phase is not Phase.PREPARING else ()
    assert [one.target for one in sent] == plan * 2
    assert [one.verb for one in sent] == [Verb.PREPARE] * 200 + [Verb.COMMIT] * 200
    assert (protocol.retry(coordinator), run_of(ledger).open_seats()) == ((), ())


def test_a_run_starts_only_when_its_members_are_free() -> None:
    ledger, coordinator = started()

    def refusal(*plan: Target, decision_id: bytes = EARLIER) -> str:
        step = protocol.start(ledger, coordinator, decision_id, plan, deadline_ns=9)
        assert (step.ledger == ledger) == (step.refusal != "")
        return step.refusal

    three = replace(ONE, database=b"\x03")
    assert (
        refusal(three) == "run aa is undecided; wait for its decision, or abort it (`everlog fleet abort aa`)"
    )
    ledger, coordinator, *_ = protocol.abort(ledger, coordinator, ID)
    assert refusal(three, ONE) == (
        "database 01 has not ended run aa; wait until it is connected, or leave it out"
    )
    assert refusal(three, decision_id=ID) == "run aa exists already; start the run with a new id"
    assert refusal(three, three) == "expected a plan that has each database once"
    assert refusal() == "expected a plan that has each database once"
    assert refusal(three) == ""
    ledger, coordinator = reported(ledger, coordinator, Phase.ABORTED)
    assert refusal(three, ONE) == ""
    idle = protocol.start(ledger, Coordinator(), EARLIER, [ONE], deadline_ns=9)
    assert "does not coordinate" in idle.refusal


def test_of_two_coordinators_one_decides() -> None:
    ledger, first = reported(*started(), Phase.PREPARED)
    ledger, second, orders, *_ = protocol.take_over(ledger)
    assert [(sent.verb, sent.target, sent.fence) for sent in orders] == [(Verb.PREPARE, TWO, 3)]
    last = Report(TWO.database, ID, 2, Phase.PREPARED)
    assert protocol.receive(ledger, first, last) == (ledger, Coordinator(), (), "", "")
    assert protocol.abort(ledger, first, ID) == (ledger, Coordinator(), (), "", "")
    assert run_of(protocol.receive(ledger, second, last).ledger).decision is Decision.COMMIT


def test_a_report_with_a_higher_fence_ends_a_coordinator() -> None:
    ledger, coordinator = started()
    report = Report(ONE.database, ID, 3, Phase.ABORTED)
    assert protocol.receive(ledger, coordinator, report) == (ledger, Coordinator(), (), "", "")


@pytest.mark.parametrize("phase", [Phase.COMMITTED, Phase.CONTRACTED, Phase.ABORTED])
def test_an_end_that_the_ledger_excludes_is_an_alarm(phase: Phase) -> None:
    ledger, coordinator = started()
    step = protocol.receive(ledger, coordinator, Report(ONE.database, ID, 2, phase))
    assert (step.ledger, step.coordinator, step.orders) == (ledger, coordinator, ())
    assert step.alarm.startswith(f"database 01 reports {phase.value} in run aa, which is not ")


def test_a_report_of_an_unknown_run_changes_nothing() -> None:
    ledger, coordinator = started()
    for report in (Report(ONE.database, EARLIER, 2, Phase.PREPARED), Report(b"\x09", ID, 2, Phase.PREPARED)):
        assert protocol.receive(ledger, coordinator, report) == (ledger, coordinator, (), "", "")
