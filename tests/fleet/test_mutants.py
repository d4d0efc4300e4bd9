"""Each rule of the protocol is needed: without it, the search finds a violation, and shows the way to it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

import pytest

from everlog.fleet import protocol
from tests.fleet.search import Bounds, Search

NONE = Bounds(takeovers=0)
ONE = Bounds(takeovers=1)
TWO = Bounds(takeovers=0, runs=2)
REMOVALS = Bounds(takeovers=0, removals=True)
CONTRACTS = Bounds(takeovers=0, contracts=True)
LOCAL = Bounds(takeovers=0, local=True)


ABORTS = "    return _commit(ledger, coordinator, replace(run, decision=Decision.ABORT))"


class Mutant(NamedTuple):
    """A text of the rules, what stands there instead, and the invariant that the search finds broken."""

    old: str
    new: str
    broken: str
    bounds: Bounds = ONE


MUTANTS = {
    "a member ignores the fence": Mutant(
        "if order.fence < seen:", "if order.fence < 0:", "a member holds a run that it has ended", TWO
    ),
    "a run starts with the fence of the last one": Mutant(
        "Run(decision_id, seats, deadline_ns), raised=True)",
        "Run(decision_id, seats, deadline_ns))",
        "a member holds a run that it has ended",
        TWO,
    ),
    "a commit does not read the epoch": Mutant(
        "if ledger.epoch != coordinator.epoch:", "if not coordinator.epoch:", "a run has two decisions"
    ),
    "a takeover does not raise the epoch": Mutant(
        "replace(ledger, epoch=ledger.epoch + 1)",
        "replace(ledger, epoch=max(ledger.epoch, 1))",
        "a report contradicts the ledger",
    ),
    "commit with a missing vote": Mutant(
        "if all(vote is Vote.PREPARED for vote in votes)",
        "if any(vote is Vote.PREPARED for vote in votes)",
        "COMMIT with a missing vote",
    ),
    "a refusal does not abort": Mutant(
        "if not votes or Vote.REFUSED in votes:", "if not votes:", "a report contradicts the ledger", NONE
    ),
    "a refusal replaces a vote, or the other way round": Mutant(
        "    if run.decision is None and seat.vote is None and not seat.removed:",
        "    if run.decision is None and not seat.removed:",
        "the ledger changes a vote",
        LOCAL,
    ),
    "a takeover forgets the votes": Mutant(
        "coordinator = Coordinator(ledger.epoch, ledger.runs)\n    return",
        "coordinator = Coordinator(ledger.epoch, tuple(Run(run.decision_id, tuple(Seat(seat.target) "
        "for seat in run.seats), run.deadline_ns, run.decision) for run in ledger.runs))\n    return",
        "the ledger changes a vote",
    ),
    "a takeover presumes a commit": Mutant(
        "coordinator = Coordinator(ledger.epoch, ledger.runs)\n    return",
        "coordinator = Coordinator(ledger.epoch, tuple(replace(run, decision=Decision.COMMIT) "
        "for run in ledger.runs))\n    return",
        "COMMITTED without a decision",
    ),
    "the orders of a commit that failed are sent": Mutant(
        "    if ledger.epoch != coordinator.epoch:\n        return CoordinatorStep(ledger, Coordinator())",
        "    if ledger.epoch != coordinator.epoch:\n"
        "        orders = _orders(run, run.seats, coordinator.epoch)\n"
        "        return CoordinatorStep(ledger, Coordinator(), orders)",
        "a run is not in the ledger",
    ),
    "a member keeps the fence in memory alone": Mutant(
        "phase, order.decision_id, order.fence)\n    return ask(holding, replace",
        "phase, order.decision_id)\n    return ask(holding, replace",
        "a member holds a run that it has ended",
        TWO,
    ),
    "an abort is sent without a decision": Mutant(
        "    return Verb.PREPARE if seat.vote is None else None",
        "    return Verb.PREPARE if seat.vote is None else Verb.ABORT",
        "ABORTED without a decision",
    ),
    "an abort after the decision": Mutant(
        "    if run.decision is not None:\n"
        "        return CoordinatorStep(ledger, coordinator, refusal=_decided(run))\n" + ABORTS,
        ABORTS,
        "a run has two decisions",
    ),
    "a removal after the decision": Mutant(
        "    if run.decision is not None:\n"
        "        return CoordinatorStep(ledger, coordinator, refusal=_decided(run))\n"
        "    return _commit(ledger, coordinator, _counted",
        "    return _commit(ledger, coordinator, _counted",
        "removed after the decision",
        REMOVALS,
    ),
    "a removed member receives the commit": Mutant(
        "if seat.removed or run.decision is Decision.ABORT:",
        "if run.decision is Decision.ABORT:",
        "a removed member is COMMITTED",
        REMOVALS,
    ),
    "a run without members commits": Mutant(
        "if not votes or Vote.REFUSED in votes:",
        "if Vote.REFUSED in votes:",
        "COMMIT without a member",
        REMOVALS,
    ),
    "orders after the decision are not repeated": Mutant(
        "    if run.decision is Decision.COMMIT:\n        return Verb.COMMIT\n",
        "    if run.decision is Decision.COMMIT:\n        return None\n",
        "a run does not end",
        NONE,
    ),
    "a vote is an end": Mutant(
        "if report.phase in ENDS and",
        "if report.phase in (*ENDS, Phase.PREPARED) and",
        "a member holds a run that it has ended",
    ),
    "a run starts before the last one has ended": Mutant(
        "            if seat.target.database in databases:",
        "            if not databases:",
        "an end is not durable",
        TWO,
    ),
    "a late report takes back a contraction": Mutant(
        "if report.phase in ENDS and seat.end is not Phase.CONTRACTED:",
        "if report.phase in ENDS:",
        "the ledger changes an end",
        CONTRACTS,
    ),
    "a contraction before all have committed": Mutant(
        "run.decision is not Decision.COMMIT or run.open_seats():",
        "run.decision is Decision.ABORT:",
        "contracted before all committed",
        CONTRACTS,
    ),
    "a member gives up in doubt": Mutant(
        "    fence = max(holding.fence, member.fence)\n"
        "    report = Report(member.database, holding.decision_id",
        "    fence = max(holding.fence, member.fence)\n"
        "    if holding.phase is Phase.PREPARED and not member.fence:\n"
        "        holding = replace(holding, phase=Phase.IDLE, decision_id=b'')\n"
        "    report = Report(member.database, holding.decision_id",
        "a member leaves PREPARED by itself",
    ),
    "a PREPARE after ABORT is accepted": Mutant(
        "    if holding.decision_id == order.decision_id:\n        if holding.phase is Phase.PREPARING:",
        "    if holding.decision_id == order.decision_id and holding.phase is not Phase.ABORTED:\n"
        "        if holding.phase is Phase.PREPARING:",
        "a member changes the end of its run",
    ),
    "an ABORT without a run is not kept": Mutant(
        "(held in HELD or (held is None and holding.phase not in HELD))",
        "held in HELD",
        "a run does not end",
        NONE,
    ),
    "an ABORT without a run is reported and not kept": Mutant(
        "phase, order.decision_id, order.fence)\n    return ask(holding, replace(member, target=None))",
        "phase, order.decision_id, order.fence)\n"
        "    step = ask(holding, replace(member, target=None))\n"
        "    idle = replace(holding, phase=Phase.IDLE, decision_id=b'')\n"
        "    return step if held else step._replace(holding=idle)",
        "an end is not durable",
    ),
    "a vote is sent before it is durable": Mutant(
        "    holding = replace(holding, phase=Phase.PREPARED, fence=max(holding.fence, member.fence))\n"
        "    return ask(holding, replace(member, target=None))",
        "    later = replace(holding, phase=Phase.PREPARED, fence=max(holding.fence, member.fence))\n"
        "    return ask(later, member)._replace(holding=holding)",
        "a vote in the ledger is not durable",
    ),
    "a refusal is sent before it is durable": Mutant(
        "    holding = replace(holding, phase=Phase.ABORTED, fence=fence, reason=reason)\n"
        "    return ask(holding, replace(member, target=None))",
        "    later = replace(holding, phase=Phase.ABORTED, fence=fence, reason=reason)\n"
        "    return ask(later, member)._replace(holding=holding)",
        "a member holds a run that it has ended",
    ),
    "a member refuses after its vote": Mutant(
        "    if holding.phase is not Phase.PREPARING or member.target is None:\n"
        "        return MemberStep(holding, member)\n"
        "    fence =",
        "    if holding.phase not in HELD:\n        return MemberStep(holding, member)\n    fence =",
        "a member leaves PREPARED by itself",
    ),
    "another migration starts while it is prepared": Mutant(
        "    if holding.phase not in HELD:\n        return",
        "    if holding:\n        return",
        "a member leaves PREPARED by itself",
        LOCAL,
    ),
    "the version is not checked": Mutant(
        "elif holding.version != target.from_version:",
        "elif not target:",
        "a vote for another version",
        LOCAL,
    ),
}


@contextmanager
def mutated(old: str, new: str) -> Iterator[ModuleType]:
    source = inspect.getsource(protocol)
    assert source.count(old) == 1, f"found {source.count(old)} times: {old}"
    module = ModuleType("tests.fleet.mutated")
    sys.modules[module.__name__] = module  # for the annotations of its classes
    try:
        exec(compile(source.replace(old, new), "mutated", "exec"), module.__dict__)  # noqa: S102
        yield module
    finally:
        del sys.modules[module.__name__]


@pytest.mark.parametrize("name", MUTANTS)
def test_without_a_rule_the_search_finds_a_violation(name: str) -> None:
    mutant = MUTANTS[name]
    with mutated(mutant.old, mutant.new) as rules:
        found = Search(rules, mutant.bounds).run()
    sys.stdout.write(f"{name}: {found}\n")
    assert found.violation == mutant.broken
    assert found.trace
