"""Fleet plans: upgrades of a fleet that were planned; one of them with its members, decision and start.

    /db/{database}/fleet/plans              those that were proposed, newest first, and a form for another
        POST                                surveys the members and proposes a plan
    /db/{database}/fleet/plans/{digest}     one: what it does, findings, members with their estimates
        POST decision=approve|reject        with a reason
    /db/{database}/fleet/plans/{digest}/start

A plan is decided and started as it is shown: the forms have its digest, and the coordinator surveys its
members again. It refuses a plan that has become stale, with what has changed.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.responses import Response

from everlog.console.web.fleet import LISTED, Happened, happened, paged, seen
from everlog.console.web.format import href
from everlog.console.web.migrations import WAITS, by_of, key_of, refused
from everlog.console.web.page import NotFoundError, Page, View, redirect, route, thing
from everlog.console.web.permits import Permits
from everlog.console.web.session import Session
from everlog.feed import cursor
from everlog.fleet.approvals import PlanState, ProposedPlan
from everlog.fleet.migrations.v20261130233000_add_proofs import PLANS, Plan
from everlog.fleet.plan import Refusal
from everlog.fleet.selector import Selector
from everlog.store.errors import AccessError, Error, MigrationError, RowError, SchemaError, quantity

SHOWN = 50
KNOWN_S = 5.0  # for so long the newest plan is known
HOUR_S, HOURS_MAX = 3600.0, 8760.0
STATES = {
    PlanState.WAITING: ("waiting", "Waiting for approval"),
    PlanState.APPROVED: ("info", "Approved"),
    PlanState.REJECTED: ("", "Rejected"),
    PlanState.STARTED: ("ok", "Started"),
    PlanState.SUPERSEDED: ("", "Superseded"),
}
# What the commit of a plan's state did.
SAYS = {
    "WAITING": "proposed it",
    "APPROVED": "approved it",
    "REJECTED": "rejected it",
    "STARTED": "started it",
    "SUPERSEDED": "proposed another plan",
}


def word_of(one: ProposedPlan, *, checked: bool) -> tuple[str, str]:
    """Return the state of a plan, with its urgency. `checked`: plans need approval."""
    if one.state is PlanState.WAITING and not checked:
        return "info", "Planned"
    return STATES[one.state]


def attention(session: Session, name: str) -> list[dict[str, str]]:
    """Return that the newest plan of a fleet waits for approval, if it does. Raises AccessError."""
    if not seen(session, name).checked:
        return []
    key, fleet = ("fleet plan", name), session.database(name).fleet
    for plan in session.polled(key, lambda: fleet.plans(limit=1), KNOWN_S):
        if plan.state is PlanState.WAITING:
            by = f"{plan.proposed_by} proposed it" if plan.proposed_by else "It was proposed"
            words = f"{by}: {quantity(plan.plan.totals.members, 'member')} to {plan.plan.migration.title}."
            link = {"href": href("db", name, "fleet", "plans", plan.digest.hex()), "action": "Review"}
            return [thing("waiting", "Waiting", "A plan of the fleet waits for approval", words, **link)]
    return []


def plans(view: View) -> Page:
    """List the plans."""
    status, permits = seen(view.session, view.database), Permits(view, view.db)
    found = view.db.fleet.plans(limit=SHOWN)[::-1]
    values = {"plans": [_told(one) for one in found]} if view.wants_json else {}
    shown = {
        "found": [(one, one.plan, *word_of(one, checked=status.checked)) for one in found],
        "news": view.console.work.news(_key(view)),
        "permit": permits.of("plan"),
        "named": permits.named,
        "who": permits.name,
        "members": len(status.members),
        "refusals": [],
    }
    return Page("fleet_plans.html", values, 200, shown)


def propose(view: View) -> Page | Response:
    """Survey the members, and propose the plan of their upgrade."""
    made, refusals = list[ProposedPlan](), list[Refusal]()
    try:
        by = by_of(view, Permits(view, view.db))
        selector = Selector.parse(view.field("selector"))
        to = _version(view.field("to"))
        db, hold, waves = view.db, view.field("hold") == "1", view.field("waves") == "1"

        def call(_: Callable[[], None]) -> None:
            made.append(
                db.fleet.plan(selector, to=to, hold=hold, waves=waves, actor=by.actor, reason=by.reason)
            )

        begun = view.console.work.start(_key(view), call)
    except Error as error:
        refusals += error.facts.get("refusals", [])
        found = refused(view, plans, error)
        return found._replace(shown={**found.shown, "refusals": refusals})
    base = href("db", view.database, "fleet", "plans")
    if not made:
        return view.done(base, WAITS) if not begun else redirect(base)
    return view.done(f"{base}/{made[0].digest.hex()}", "The upgrade is planned.")


def plan(view: View) -> Page:
    """Show one plan."""
    one = _one(view)
    status, permits, what = seen(view.session, view.database), Permits(view, view.db), one.plan
    start = view.whole("from", high=10**6)
    slowest = sorted(what.members, key=lambda each: (-each.seconds, each.name))
    waiting = one.state is PlanState.WAITING
    startable = one.state is PlanState.APPROVED or (waiting and not status.checked)
    kind, word = word_of(one, checked=status.checked)
    shown = {
        "one": one,
        "plan": what,
        "kind": kind,
        "word": word,
        "checked": status.checked,
        "members": slowest[start : start + LISTED],
        **paged(view, start, len(slowest)),
        "run_id": cursor.name(one.decision_id) if one.decision_id else "",
        "waiting": waiting and status.checked,
        "startable": startable,
        "approve": permits.of("approve"),
        "reject": permits.of("reject"),
        "begin": permits.of("start"),
        "named": permits.named,
        "who": permits.name,
        "run_events": _events(view, one),
        "news": view.console.work.news(_key(view, one)),
        "here": href("db", view.database, "fleet", "plans", one.digest.hex()),
    }
    return Page("fleet_plan.html", _told(one), 200, shown)


def _events(view: View, one: ProposedPlan) -> list[Happened]:
    """Return what happened to a plan, newest first: from the log of the ledger, or without the right to read
    it what the plan says, without times."""
    found, state = list[Happened](), ""
    try:
        for version in view.db.history(PLANS, one.digest, newest_first=False):
            row = version.row
            if row is None or (now := Plan.State.Name(row.state)) == state:
                continue
            state, words = now, SAYS[now]
            despite = ", despite errors of lint" if now == "APPROVED" and row.despite_errors else ""
            found.append(happened(version, words + despite))
    except (AccessError, SchemaError):
        found = [Happened(one.proposed_by, one.proposed_proof, SAYS["WAITING"], "", 0, 0)]
        if one.decided_by or one.reason:
            words = SAYS["REJECTED" if one.state is PlanState.REJECTED else "APPROVED"]
            found.append(Happened(one.decided_by, one.decided_proof, words, one.reason, 0, 0))
    return found[::-1]


def decide(view: View) -> Page | Response:
    """Approve or reject a plan."""
    one, verb, db = _one(view), view.field("decision"), view.db
    digest, despite = one.digest.hex(), view.field("despite_errors") == "1"

    def call(_: Callable[[], None]) -> None:
        if verb == "reject":
            db.fleet.reject(digest, actor=by.actor, reason=by.reason)
        else:
            db.fleet.approve(digest, despite_errors=despite, actor=by.actor, reason=by.reason)

    try:
        by = by_of(view, Permits(view, db))
        if verb not in {"approve", "reject"}:
            raise RowError("expected approve or reject as the decision, found neither")
        if verb == "approve" and one.plan.errors and not despite:
            raise RowError(
                f"This plan has {quantity(len(one.plan.errors), 'error')}. Read them, and confirm that you"
                " approve it despite them."
            )
        begun = view.console.work.start(_key(view, one), call)
    except Error as error:
        return refused(view, plan, error)
    words = f"The plan is {'rejected' if verb == 'reject' else 'approved'}."
    return view.done(href("db", view.database, "fleet", "plans", digest), words if begun else WAITS)


def start(view: View) -> Page | Response:
    """Start the run of a plan, and go to its page."""
    one, db, id = _one(view), view.db, uuid.uuid4().bytes
    try:
        by = by_of(view, Permits(view, db))
        deadline_s = _hours(view.field("hours") or "1") * HOUR_S

        def call(_: Callable[[], None]) -> None:
            db.fleet.upgrade(
                one.digest.hex(), decision_id=id, deadline_s=deadline_s, actor=by.actor, reason=by.reason
            )

        begun = view.console.work.start(_key(view, one), call)
    except Error as error:
        return refused(view, plan, error)
    if begun:
        url = href("db", view.database, "fleet", "runs", cursor.name(id))
        return view.done(url, "The run has started.")
    return view.done(href("db", view.database, "fleet", "plans", one.digest.hex()), WAITS)


def _one(view: View) -> ProposedPlan:
    """Return the plan in the path. Raises NotFoundError."""
    seen(view.session, view.database)
    words = view.path("digest")
    try:
        found = view.db.fleet.plans(words)
    except MigrationError as error:
        raise NotFoundError(str(error)) from None
    if not found:
        raise NotFoundError(f"there is no plan {words[:40]!r}")
    return found[-1]


def _key(view: View, one: ProposedPlan | None = None) -> Any:
    return key_of(view, f"fleet/{one.digest.hex() if one is not None else 'plan'}")


def _version(word: str) -> int | None:
    word = word.strip()
    if not word:
        return None
    if not (word.isascii() and word.isdecimal() and len(word) < 20):
        raise RowError(f"expected a version such as 20260105093000, or nothing, found {word[:40]!r}")
    return int(word)


def _hours(word: str) -> float:
    try:
        found = float(word)
    except ValueError:
        found = 0.0
    if not 0 < found <= HOURS_MAX:
        raise RowError(f"expected a deadline in hours, such as 1 or 0.5, found {word[:40]!r}")
    return found


def _told(one: ProposedPlan) -> dict[str, Any]:
    """Return a plan as JSON values."""
    return {
        "digest": one.digest.hex(),
        "state": str(one.state),
        "proposed_by": one.proposed_by,
        "proposed_proof": one.proposed_proof,
        "decided_by": one.decided_by or None,
        "decided_proof": one.decided_proof or None,
        "reason": one.reason,
        "despite_errors": one.despite_errors,
        "run": cursor.name(one.decision_id) if one.decision_id else None,
        "document": msgspec.to_builtins(one.plan),
    }


_ALL = "/db/{database}/fleet/plans"
ROUTES = [
    *route(_ALL, plans, "GET"),
    *route(_ALL, propose, "POST", twin=False),
    *route(f"{_ALL}/{{digest}}", plan, "GET"),
    *route(f"{_ALL}/{{digest}}", decide, "POST", twin=False),
    *route(f"{_ALL}/{{digest}}/start", start, "POST", twin=False),
]
