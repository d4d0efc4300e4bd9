"""Fleet: the members of a fleet at a glance, its runs, and the calls of operators.

    /fleet                                      the fleet of the server's ledger
    /db/{database}/fleet                        that of this ledger
        ?q=region=eu                            members that a selector matches
        &state=away                             in one state
        &view=list&from=100                     as a table
    /db/{database}/fleet/events                 that something has changed: server-sent events
    /db/{database}/fleet/members/{member}       one member, by the UUID of its database
    /db/{database}/fleet/runs/{run}             one run: seats, votes, and what happened, with who and why
    POST …/members/{member}/remove, /forget; …/runs/{run}/abort, /contract      with a reason

The pages of a session share one status of the fleet, which is read at most once a second, and less often if
reading it takes long: the time that the server spends for open pages is bounded.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from everlog.console.web.format import duration, href, number
from everlog.console.web.migrations import By, Look, by_of, optional, refused, streamed
from everlog.console.web.page import NotFoundError, Page, Site, View, route, thing
from everlog.console.web.permits import Permits
from everlog.console.web.session import Session
from everlog.feed import cursor
from everlog.fleet import ledger
from everlog.fleet.migrations.v20261130120000_create_ledger import RUNS, SEATS
from everlog.fleet.protocol import Phase, Run, Seat, Vote
from everlog.fleet.selector import Selector
from everlog.fleet.status import (
    FleetStatus,
    MemberStatus,
    member_dict,
    outcome,
    run_dict,
    state_of,
    status_dict,
    waits_for,
)
from everlog.store.errors import AccessError, Error, MigrationError, RowError, SchemaError, quantity

SHARED_S, PATIENCE = 1.0, 10  # a status is used for a second, or for ten times as long as reading it took
STRAGGLERS, LISTED, RUNS_SHOWN, EVENTS = 12, 100, 10, 20
DENSE = 400  # cells of more members have no names
LETTERS = 7  # of a name in its cell


class Kind(NamedTuple):
    """How a state looks: the kind of its badge, the class of its cell, and its word."""

    badge: str
    cell: str
    word: str


# By the first word of a state, in the order of the legend.
KINDS = {
    "alarm": Kind("danger", "alarm", "Alarm"),
    "failing": Kind("danger", "alarm", "Failing"),
    "away": Kind("danger", "lost", "Away"),
    "preparing": Kind("info", "working", "Preparing"),
    "prepared": Kind("info", "ready", "Prepared"),
    "committed": Kind("info", "held", "Two versions"),
    "pending": Kind("waiting", "pending", "Pending"),
    "current": Kind("ok", "", "Current"),
}
OUTCOMES = {
    "preparing": ("info", "Preparing"),
    "committing": ("info", "Committing"),
    "aborting": ("waiting", "Aborting"),
    "aborted": ("", "Aborted"),
    "committed": ("ok", "Committed"),
    "contracting": ("info", "Contracting"),
    "contracted": ("ok", "Finished"),
}


def seen(session: Session, name: str) -> FleetStatus:
    """Return the status of the fleet of a ledger, as of the last second. Read-only. Raises AccessError, and
    NotFoundError for another database."""
    db = session.database(name)
    try:
        return session.polled(_key(name), db.fleet.status, SHARED_S, patience=PATIENCE)
    except MigrationError as error:
        raise NotFoundError(str(error)) from None


def _key(name: str) -> tuple[str, str]:
    return "fleet", name


def attention(session: Session, name: str) -> Iterator[dict[str, str]]:
    """Yield what needs attention in a fleet. Raises AccessError."""
    found = seen(session, name)
    link = {"href": href("db", name, "fleet")}
    if found.problem:
        yield thing("danger", "Fleet", f"The fleet of {name} is not coordinated", found.problem, **link)
    alarms = [one for one in found.members if one.alarm]
    if alarms:
        title = (
            f"{quantity(len(alarms), 'member')} of the fleet {'has' if len(alarms) == 1 else 'have'} an alarm"
        )
        words = f"{alarms[0].report.name}: {alarms[0].alarm}"
        yield thing("danger", "Alarm", title, words, href=href("db", name, "fleet", state="alarm"))
    for run in found.runs:
        late = [seat for seat in run.seats if waits_for(run, seat)]
        if run.decision is None:
            title = f"The fleet of {name} prepares {quantity(len(run.seats), 'member')}"
            left = max(0.0, (run.deadline_ns - time.time_ns()) / 1e9)
            words = f"{quantity(len(late), 'vote')} missing; it is aborted in {duration(left)} without them."
            yield thing("info", "Preparing", title, words, **link)
        elif late:
            title = f"The fleet of {name} is {outcome(run)}"
            yield thing("info", "Running", title, f"{quantity(len(late), 'member')} not done yet.", **link)


# the page of a fleet


def first(view: View) -> Page:
    """Show the fleet of the server's first ledger."""
    found = view.session.ledgers()
    if not found:
        values: dict[str, Any] = {"ledgers": [], "members": [], "runs": []}
        return Page("fleet_none.html", values, 200)
    view.request.path_params["database"] = found[0]
    return fleet(view)


def fleet(view: View) -> Page:
    found = seen(view.session, view.database)
    wanted, state = view.query("q").strip(), view.query("state")
    problem, selector = "", Selector()
    try:
        selector = Selector.parse(wanted)
    except RowError as error:
        problem = str(error)
    if state and state not in KINDS:
        raise RowError(f"expected a state of {', '.join(KINDS)}, found {state[:40]!r}")
    run = _current(found)
    every = [
        one
        for one in found.members
        if not problem and selector.matches(one.report.name, one.report.labels, one.report.version)
    ]
    counts = Counter(_kind(one) for one in every)
    chosen = [one for one in every if not state or _kind(one) == state]
    permits = Permits(view, view.db)
    as_list = view.query("view") == "list"
    start = view.whole("from", high=10**6)
    waited = (
        {seat.target.database for seat in run.seats if waits_for(run, seat)} if run is not None else set()
    )
    late = [one for one in found.members if one.alarm or one.report.error or one.report.database in waited][
        : STRAGGLERS + 1
    ]
    cells = [] if as_list else _cells(chosen, view.database)
    shown = {
        "ledgers": view.session.ledgers(),
        "status": found,
        "mark": mark_of(found),
        "up": sum(one.connected for one in found.members),
        "selector": wanted,
        "problem_of_selector": problem,
        "state": state,
        "as_list": as_list,
        "legend": [
            (
                name,
                KINDS[name],
                KINDS[name].word,
                counts[name],
                view.href(state=None if state == name else name, **{"from": None}),
            )
            for name in KINDS
            if counts[name]
        ],
        "cells": cells,
        "letters": max((len(one[3]) for one in cells), default=0),
        "dense": len(chosen) > DENSE,
        "rows": [_row(one, view.database) for one in chosen[start : start + LISTED]] if as_list else [],
        **paged(view, start, len(chosen)),
        "chosen": len(chosen),
        "every": len(every),
        "late": [_row(one, view.database) for one in late[:STRAGGLERS]],
        "waited": len(waited),
        "more_late": len(late) > STRAGGLERS,
        "run": _summary(run) if run is not None else None,
        "run_events": _events(view, run) if run is not None else [],
        "badge_of": _badge(found, run),
        "pending": counts["pending"],
        "runs_shown": _runs(found),
        "grid_href": view.href(view=None, **{"from": None}),
        "list_href": view.href(view="list"),
        **_operations(run, permits),
    }
    return Page("fleet.html", status_dict(found) if view.wants_json else {}, 200, shown)


def paged(view: View, start: int, count: int) -> dict[str, Any]:
    """Return where the page of a list begins, and the addresses of those before and after it."""
    return {
        "start": start,
        "previous": view.href(**{"from": max(0, start - LISTED) or None}) if start else "",
        "next": view.href(**{"from": start + LISTED}) if start + LISTED < count else "",
    }


def _runs(found: FleetStatus) -> list[dict[str, Any]]:
    """Return the newest runs, those first that have not ended."""
    ended = {one.decision_id for one in found.ended}
    shown = [
        {**_summary(run), "started_ns": 0, "actor": "", "why": ""}
        for run in reversed(found.runs)
        if run.decision_id not in ended
    ]
    for one in reversed(found.ended):
        kind, word = OUTCOMES[one.outcome]
        shown.append(
            {
                "id": cursor.name(one.decision_id),
                "kind": kind,
                "word": word,
                "seats": one.members,
                "started_ns": one.started_ns,
                "actor": one.actor,
                "why": one.why,
            }
        )
    return shown[:RUNS_SHOWN]


def mark_of(found: FleetStatus) -> str:
    """Return a text that changes with what the page shows. Positions and times of contact do not count."""
    members = tuple(
        (
            *(one.connected, one.alarm, one.report.name, one.report.version, one.report.pending),
            *(one.report.phase, one.report.rows, one.report.rate, one.report.waits_for),
            *(one.report.error, one.report.refusal),
        )
        for one in found.members
    )
    runs = tuple(found.runs), len(found.ended), *(one.decision_id for one in found.ended[-1:])
    return f"{hash((found.epoch, found.problem, members, runs)) & (1 << 64) - 1:x}"


def _current(found: FleetStatus) -> Run | None:
    """Return the run that is in progress, or whose members serve two versions; None: there is none."""
    busy = [
        one for one in found.runs if any(waits_for(one, seat) for seat in one.seats) or one.decision is None
    ]
    if busy:
        return busy[-1]
    last = found.runs[-1] if found.runs else None
    return last if last is not None and outcome(last) == "committed" else None


def _badge(found: FleetStatus, run: Run | None) -> tuple[str, str]:
    if found.problem:
        return "danger", "Not coordinated"
    if run is not None:
        return OUTCOMES[outcome(run)]
    pending = sum(_kind(one) == "pending" for one in found.members)
    if pending:
        return "waiting", f"{number(pending)} pending"
    return ("ok", "Current") if found.members else ("", "No members")


def _kind(one: MemberStatus) -> str:
    """Return the first word of a member's state."""
    if one.report.error and one.connected and not one.alarm:
        return "failing"
    word = state_of(one).partition(",")[0]
    return "pending" if word.endswith("pending") else word


def _words(one: MemberStatus) -> str:
    """Return what a member does and waits for, as a clause after its state."""
    report = one.report
    words = []
    if report.phase is Phase.PREPARING and report.total:
        words.append(f"{number(report.rows)} of {quantity(report.total, 'row')}")
        words += [f"{report.rate:,.0f} a second"] if report.rate else []
        words += [f"{duration(one.left_s)} left"] if one.left_s else []
    words += [f"waits for {report.waits_for}"] if report.waits_for else []
    return ", ".join(words)


def _why(one: MemberStatus) -> str:
    return one.alarm or one.report.error or one.report.diverged or one.report.refusal


def _cells(members: Sequence[MemberStatus], name: str) -> list[tuple[str, str, str, str, str]]:
    """Return the cells of the grid: class, id, address, text, and title."""
    prefix = _shared([one.report.name for one in members])
    base, found = href("db", name, "fleet", "members"), []
    for one in members:
        report, kind = one.report, _kind(one)
        about = ": ".join(
            filter(None, (report.name, ", ".join(filter(None, (_state(one), _words(one), _why(one))))))
        )
        id = report.database.hex()
        text = report.name[prefix:] or report.name
        found.append((KINDS[kind].cell, id, f"{base}/{cursor.name(report.database)}", _short(text), about))
    return found


def _shared(names: Sequence[str]) -> int:
    """Return how many first letters all names share; 0 for one name."""
    low, high = (min(names), max(names)) if len(names) > 1 else ("", "")
    return next((at for at, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))


def _short(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"


def _state(one: MemberStatus) -> str:
    """Return the state of a member, as a badge has it."""
    kind, state = _kind(one), state_of(one)
    return KINDS[kind].word if kind in {"failing", "committed"} else f"{state[:1].upper()}{state[1:]}"


def _row(one: MemberStatus, name: str) -> dict[str, Any]:
    """Return a member for a table."""
    report, kind = one.report, _kind(one)
    return {
        "status": one,
        "report": report,
        "href": href("db", name, "fleet", "members", cursor.name(report.database)),
        "kind": KINDS[kind].badge,
        "state": _state(one),
        "words": _words(one),
        "why": _why(one),
        "building": report.phase is Phase.PREPARING and report.total > 0,
    }


def _summary(run: Run) -> dict[str, Any]:
    """Return a run in numbers."""
    seats = [seat for seat in run.seats if not seat.removed]
    kind, word = OUTCOMES[outcome(run)]
    waits = run.decision is None or any(waits_for(run, seat) for seat in run.seats)
    return {
        "id": cursor.name(run.decision_id),
        "run": run,
        "kind": kind,
        "word": word,
        "live": waits,
        "seats": len(seats),
        "removed": len(run.seats) - len(seats),
        "prepared": sum(seat.vote is Vote.PREPARED for seat in seats),
        "refused": sum(seat.vote is Vote.REFUSED for seat in seats),
        "committed": sum(seat.end in {Phase.COMMITTED, Phase.CONTRACTED} for seat in seats),
        "contracted": sum(seat.end is Phase.CONTRACTED for seat in seats),
        "aborted": sum(seat.end is Phase.ABORTED for seat in seats),
        "hold": any(seat.target.hold for seat in seats),
        "from": sorted({seat.target.from_version for seat in run.seats}),
        "to": sorted({seat.target.to_version for seat in run.seats}),
        "left_s": max(0.0, (run.deadline_ns - time.time_ns()) / 1e9),
    }


def _operations(run: Run | None, permits: Permits) -> dict[str, Any]:
    """Return what may be done about a run, for _fleet_actions.html."""
    verb = ""
    if run is not None and run.decision is None:
        verb = "abort"
    elif run is not None and outcome(run) == "committed":
        verb = "contract"
    return {
        "verb": verb,
        "permit": permits.of(verb) if verb else None,
        "named": permits.named,
        "who": permits.name,
    }


# a run, and its audit


class Happened(NamedTuple):
    """An event of a run or a plan. `words`: what its actor did."""

    actor: str
    proof: str
    words: str
    reason: str
    time_ns: int
    seq: int


def run_page(view: View) -> Page:
    """Show one run, also one that has ended long ago."""
    id, found = _id(view, "run"), seen(view.session, view.database)
    run = next((one for one in found.runs if one.decision_id == id), None) or optional(
        lambda: view.db.run(lambda tx: ledger.stored_run(tx, id))
    )
    if run is None:
        raise NotFoundError(f"there is no run {view.path('run')}, or you may not read the ledger")
    names = {one.report.database: one for one in found.members}
    permits = Permits(view, view.db)
    summary = _summary(run)
    seats = sorted(
        (_seat(run, seat, names.get(seat.target.database), view.database) for seat in run.seats),
        key=lambda one: (not one["waits"], not one["reason"], one["name"]),
    )
    start = view.whole("from", high=10**6)
    shown = {
        "summary": summary,
        "run": run,
        "mark": mark_of(found),
        "seats_shown": seats[start : start + LISTED],
        **paged(view, start, len(seats)),
        "run_events": _events(view, run),
        **_operations(run, permits),
    }
    return Page("fleet_run.html", run_dict(run), 200, shown)


def _seat(run: Run, seat: Seat, member: MemberStatus | None, name: str) -> dict[str, Any]:
    """Return a seat for the table of a run."""
    if seat.removed:
        kind, word = "", "Removed"
    elif seat.end is not None:
        kind, word = {
            Phase.COMMITTED: ("ok", "Committed"),
            Phase.CONTRACTED: ("ok", "Finished"),
            Phase.ABORTED: ("", "Aborted"),
        }[seat.end]
    elif seat.vote is Vote.REFUSED:
        kind, word = "danger", "Refused"
    elif seat.vote is Vote.PREPARED:
        kind, word = "info", "Prepared"
    else:
        kind, word = "waiting", "No vote yet"
    uid = cursor.name(seat.target.database)
    return {
        "seat": seat,
        "name": member.report.name if member is not None else uid,
        "href": href("db", name, "fleet", "members", uid) if member is not None else "",
        "kind": kind,
        "word": word,
        "waits": waits_for(run, seat),
        "state": _row(member, name) if member is not None else None,
        "reason": seat.reason,
    }


def _events(view: View, run: Run) -> list[Happened]:
    """Return what happened to a run, newest first, from the log of the ledger; empty without the right to
    read it."""
    try:
        found = list(_of_run(view, run.decision_id))
        for seat in [seat for seat in run.seats if seat.removed or seat.reason][:EVENTS]:
            found += _of_seat(view, run, seat)
    except (AccessError, SchemaError):
        return []
    return sorted(found, key=lambda one: (one.seq, one.words), reverse=True)


def _versions(view: View, table: Any, key: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the versions of a row, each with its row and the previous row, oldest first."""
    before = None
    for one in view.db.history(table, key, newest_first=False):
        if one.row is not None:
            yield one, one.row, before
            before = one.row


def _of_run(view: View, id: bytes) -> Iterator[Happened]:
    for now, row, before in _versions(view, RUNS, id):
        said = [] if before is not None else ["started the run"]
        if row.decision and (before is None or not before.decision):
            committed = row.decision == type(row).COMMIT
            said.append("decided that all members switch" if committed else "aborted the run")
        if row.contract and (before is None or not before.contract):
            said.append("ended the time of two versions")
        if row.ended and (before is None or not before.ended):
            said.append("saw the last member end")
        yield from (happened(now, words) for words in said)


def _of_seat(view: View, run: Run, seat: Seat) -> Iterator[Happened]:
    """Yield that a member was removed, or refused."""
    names = {one.report.database: one.report.name for one in seen(view.session, view.database).members}
    name = names.get(seat.target.database, cursor.name(seat.target.database))
    for now, row, before in _versions(view, SEATS, (run.decision_id, seat.target.database)):
        if row.removed and (before is None or not before.removed):
            yield happened(now, f"removed {name} from the run")
        if row.reason and (before is None or not before.reason):
            yield Happened(name, "", f"refused: {row.reason}", "", now.time_ns, now.seq)


def happened(one: Any, words: str) -> Happened:
    """Return what a version of a row says that its actor did."""
    return Happened(one.actor, one.proof, words, one.reason, one.time_ns, one.seq)


# a member


def member(view: View) -> Page:
    id, found = _id(view, "member"), seen(view.session, view.database)
    one = _member(found, id, view.path("member"))
    permits, run = Permits(view, view.db), _current(found)
    seat = run.seat(id) if run is not None else None
    held = [each for each in found.runs if (own := each.seat(id)) is not None and own.end is None]
    verb = ""
    if run is not None and run.decision is None and seat is not None and not seat.removed:
        verb = "remove"
    elif not held and (not one.connected or one.report.diverged):
        verb = "forget"
    shown = {
        "row": _row(one, view.database),
        "mark": mark_of(found),
        "report": one.report,
        "status": one,
        "runs_shown": [
            (_summary(each), _seat(each, own, one, view.database))
            for each in reversed(found.runs)
            if (own := each.seat(id)) is not None
        ],
        "run_id": cursor.name(run.decision_id) if run is not None else "",
        "uuid": cursor.name(id),
        "here": href("db", view.database, "fleet", "members", cursor.name(id)),
        "verb": verb,
        "permit": permits.of(verb) if verb else None,
        "named": permits.named,
        "who": permits.name,
        "row_href": href("db", view.database, "tables", "members", "row", k=f"hex:{id.hex()}"),
    }
    return Page("fleet_member.html", {"member": member_dict(one)}, 200, shown)


def _id(view: View, what: str) -> bytes:
    """Return the UUID in the path. Raises NotFoundError."""
    try:
        return uuid.UUID(view.path(what)).bytes
    except ValueError:
        raise NotFoundError(f"expected the UUID of a {what}, found {view.path(what)[:40]!r}") from None


def _member(found: FleetStatus, id: bytes, words: str) -> MemberStatus:
    one = next((one for one in found.members if one.report.database == id), None)
    if one is None:
        raise NotFoundError(f"the fleet has no member with database {words}; it may have been forgotten")
    return one


# forms


def _act(
    call: Callable[[View, By], object], again: Callable[[View], Page], words: str, *, back: bool = False
) -> Callable[[View], Page | Response]:
    """Return the handler of a form. `words`: what the next page says; `back`: it is that of the fleet."""

    def handle(view: View) -> Page | Response:
        try:
            by = by_of(view, Permits(view, view.db))
            call(view, by)
        except Error as error:
            return refused(view, again, error)
        view.session.forget(_key(view.database))
        url = href("db", view.database, "fleet")
        return view.done(url if back else view.request.url.path.rpartition("/")[0], words)

    return handle


def _removed(view: View, by: By) -> None:
    run = view.field("run")
    try:
        decision_id = uuid.UUID(run).bytes
    except ValueError:
        raise RowError(f"expected the UUID of a run, found {run[:40]!r}") from None
    view.db.fleet.remove(_id(view, "member"), decision_id=decision_id, actor=by.actor, reason=by.reason)


def _forgotten(view: View, by: By) -> None:
    one = _member(seen(view.session, view.database), _id(view, "member"), view.path("member"))
    view.check_typed(one.report.name)
    view.db.fleet.remove(one.report.database, actor=by.actor, reason=by.reason)


async def events(request: Request) -> Response:
    """Stream that something has changed."""
    console: Site = request.app.state.console
    view = View(request, console)
    await run_in_threadpool(seen, view.session, view.database)

    def look() -> Look:
        return Look(mark_of(seen(view.session, view.database)), None)

    subject = f"fleet/{view.database}"
    return streamed(console, view.session, look, view.query("mark"), subject)


_ALL = "/db/{database}/fleet"
_RUN, _MEMBER = f"{_ALL}/runs/{{run}}", f"{_ALL}/members/{{member}}"
ROUTES = [
    *route("/fleet", first),
    *route(_ALL, fleet),
    Route(f"{_ALL}/events", events),
    *route(_RUN, run_page, "GET"),
    *route(
        f"{_RUN}/abort",
        _act(
            lambda view, by: view.db.fleet.abort(_id(view, "run"), actor=by.actor, reason=by.reason),
            run_page,
            "The run is aborted. Its members drop what they built.",
        ),
        "POST",
        twin=False,
    ),
    *route(
        f"{_RUN}/contract",
        _act(
            lambda view, by: view.db.fleet.contract(_id(view, "run"), actor=by.actor, reason=by.reason),
            run_page,
            "The members end the time of two versions now.",
        ),
        "POST",
        twin=False,
    ),
    *route(_MEMBER, member, "GET"),
    *route(
        f"{_MEMBER}/remove", _act(_removed, member, "The member is removed from the run."), "POST", twin=False
    ),
    *route(
        f"{_MEMBER}/forget",
        _act(_forgotten, member, "The member is forgotten.", back=True),
        "POST",
        twin=False,
    ),
]
