"""Migrations: those of a database in their order, and one of them with its folder, progress and audit.

    /db/{database}/migrations                        all, newest first, each with its state
    /db/{database}/migrations/{version}              one: declarations, model, rows, files, events
    /db/{database}/migrations/{version}/events       progress and changes of its state: server-sent events
    /db/{database}/migrations/{version}/{verb}       forms: apply, complete, cancel
    /db/{database}/migrations/{version}/rollback     what rolling back would do and lose, and the form

A change asks for a reason, which the log keeps with the name of the identity. It is made by the same call as
that of the command line; a long one continues after the request has been answered (work.py).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from everlog.console import output
from everlog.console.web import plots, sources
from everlog.console.web.format import duration, href, number
from everlog.console.web.page import NotFoundError, Page, Site, View, fragment, live, route
from everlog.console.web.permits import Permits
from everlog.console.web.session import Session
from everlog.console.web.work import Key
from everlog.migrations.details import Details
from everlog.migrations.plan import PlannedMigration
from everlog.migrations.proposal import Proposal, ProposalState
from everlog.migrations.rollback import PlannedRollback
from everlog.migrations.status import MigrationInfo, State
from everlog.rpc.client.database import RemoteDatabase
from everlog.store.errors import (
    AccessError,
    Error,
    LimitError,
    MigrationError,
    RowError,
    SchemaError,
    UnavailableError,
    quantity,
)
from everlog.store.measures import quantile
from everlog.store.upkeep.samples import Sample

# What an event says about its actor.
SAYS = {
    "proposed": "proposed it",
    "approved": "approved it",
    "rejected": "rejected it",
    "started": "started it",
    "prepared": "prepared it for a decision",
    "switched": "switched to it, with the previous version beside",
    "finished": "finished it",
    "failed": "saw it fail",
    "rolled_back": "rolled it back or cancelled it",
    "accepted": "accepted its edited folder",
}
PLANNED_S = 60.0  # a plan is shown for so long
POLL_S, SHARED_S, IDLE_S, PING_S, SAMPLES = 1.0, 0.9, 2.0, 15.0, 60
WIDTH, HEIGHT = 720, 72
BEFORE_S, NOW_S, LATENCIES = 600, 60, 200  # the times whose latencies are compared, and samples
WAITS = "It takes longer than expected. This page shows the outcome."


class Shown(NamedTuple):
    """The state of a migration in a word with its urgency, a sentence about it, and its proposal's digest."""

    kind: str
    word: str
    words: str = ""
    digest: str = ""
    live: bool = False


STATES = {
    ProposalState.WAITING: ("waiting", "Waiting for approval"),
    ProposalState.APPROVED: ("info", "Approved"),
    ProposalState.REJECTED: ("", "Rejected"),
    ProposalState.FINISHED: ("ok", "Finished"),
    ProposalState.FAILED: ("danger", "Failed"),
    ProposalState.ROLLED_BACK: ("", "Rolled back"),
    ProposalState.SUPERSEDED: ("", "Superseded"),
}
DECIDED = STATES.keys() - {ProposalState.SUPERSEDED, ProposalState.FINISHED}
_APPLIED = {
    State.APPLIED: ("ok", "Applied", ""),
    State.AHEAD: ("ok", "Applied", "Code newer than that of the server applied it."),
    State.EDITED: ("danger", "Edited", "Its folder was changed after it was applied."),
    State.MISSING: (
        "danger",
        "Folder missing",
        "The server has newer folders, but not the one of this migration.",
    ),
}


def shown(info: MigrationInfo, proposals: Sequence[Proposal] = ()) -> Shown:
    """Return the state of a migration for people. `proposals`: of its database, oldest first."""
    newest = _proposal_of(info.version, proposals)
    digest = newest.digest.hex() if newest is not None else ""
    if info.state is State.PENDING:
        return _pending(info, newest, digest)
    if info.stopped:
        return Shown("danger", "Stopped", sentence(info.stopped), digest)
    if in_progress(info):
        word = "Rolling back" if info.rolling_back else "Running"
        return Shown("info", word, _progress_words(info), digest, live=True)
    if info.prepared:
        return Shown("waiting", "Prepared", f"It waits for decision {info.decision}.", digest)
    if info.held:
        return Shown("info", "Two versions", "The previous version is served as well.", digest)
    return Shown(*_APPLIED[info.state], digest)


def _pending(info: MigrationInfo, newest: Proposal | None, digest: str) -> Shown:
    """Return the state of a pending migration. `newest`: its newest proposal."""
    if newest is not None and newest.state in DECIDED:
        kind, word = word_of(newest)
        last = newest.last
        words = last.error or (f"“{last.reason}”" if last.reason else "")
        return Shown(kind, word, words, digest, live=newest.state is ProposalState.APPROVED)
    if info.rolled_back_ns:
        return Shown("", "Rolled back", f"{info.actor or 'Somebody'} rolled it back or cancelled it.")
    late = "It is older than an applied migration: everlog up --out-of-order applies it."
    return Shown("waiting", "Pending", late if info.late else "")


def word_of(proposal: Proposal) -> tuple[str, str]:
    """Return the state of a proposal in a word, with its urgency."""
    cancelled = proposal.state is ProposalState.REJECTED and proposal.last.step == "rolled_back"
    return ("", "Cancelled") if cancelled else STATES[proposal.state]


def _proposal_of(version: int, proposals: Sequence[Proposal]) -> Proposal | None:
    """Return the newest proposal of a version."""
    for one in reversed(proposals):
        if any(entry.version == version for entry in one.plan.migrations):
            return one
    return None


def sentence(words: str) -> str:
    """Return a clause as a sentence."""
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith('.') else '.'}" if words else ""


def _progress_words(info: MigrationInfo) -> str:
    left = f", about {duration(info.left_s)} left" if info.left_s else ""
    return f"{number(info.rows)} of {quantity(info.total, 'row')}{left}."


def optional(call: Callable[[], Any]) -> Any:
    """Return what a call returns; None without the right to it, or at an older server."""
    try:
        return call()
    except (AccessError, UnavailableError):
        return None


def known(db: RemoteDatabase) -> tuple[list[MigrationInfo], str]:
    """Return the migrations of a database, and why they are unknown: a folder of the server is invalid."""
    try:
        return db.migrations.status(), ""
    except SchemaError as error:
        return [], str(error)


def migrations(view: View) -> Page:
    db = view.db
    infos, problem = known(db)
    proposals = optional(db.migrations.proposals) or []
    found = [_told(info, shown(info, proposals)) for info in reversed(infos)]
    values = {
        "migrations": found,
        "problem": problem or optional(db.migrations.problem) or "",
        "checked": optional(db.migrations.rules) is not None,
    }
    attention = [one for one in found if one["kind"] not in {"ok", ""}]
    return Page("migrations.html", values, 200, {"attention": attention})


def _told(info: MigrationInfo, state: Shown) -> dict[str, Any]:
    """Return a migration of the list as JSON values."""
    took_ns = info.applied_ns - info.started_ns if info.applied_ns and info.started_ns else 0
    return {
        "version": info.version,
        "name": info.name,
        "state": state.word,
        "kind": state.kind,
        "live": state.live,
        "words": state.words,
        "proposal": state.digest,
        "applied_ns": info.applied_ns,
        "rolled_back_ns": info.rolled_back_ns,
        "seq": info.seq,
        "actor": info.actor,
        "took_s": took_ns / 1e9,
        "rows": info.rows,
        "total": info.total,
        "left_s": info.left_s,
        "stopped": info.stopped,
        "held": info.held,
        "prepared": info.prepared,
        "decision_id": info.decision,
        "late": info.late,
    }


def migration(view: View) -> Page:
    """Show one migration."""
    db, version = view.db, _version(view)
    infos, proposals = db.migrations.status(), optional(db.migrations.proposals) or []
    info = _info(infos, version)
    state, newest = shown(info, proposals), _proposal_of(version, proposals)
    permits = Permits(view, db)
    details = optional(lambda: db.migrations.show(version)) if permits.sees_folders else None
    older = before(db, infos, version) if details is not None else None
    marked = mark(info, proposals)
    does = actions(view, infos, info, newest, permits)
    plan = _plan_of(view, info, marked) if "apply" in does["verbs"] and does["permits"]["apply"] else {}
    values = {
        **_told(info, state),
        "database": view.database,
        **({"plan": msgspec.to_builtins([one for one, _ in plan["steps"]])} if plan else {}),
        "digest": (info.digest or info.folder_digest).hex(),
        **({"details": output.details_dict(details)} if details is not None else {}),
    }
    findings = newest.plan.findings if newest is not None and state.word == "Waiting for approval" else ()
    more = {
        "info": info,
        "state": state,
        "folder": sources.folder(details, older, findings) if details is not None else None,
        "events": details.events[::-1] if details is not None else [],
        "says": SAYS,
        "why_no_folder": "" if details is not None else no_folder(permits),
        "mark": marked,
        **(plan or {"steps": [], "costs": [], "cannot": ""}),
        "progress": progress(info, writers=writers(db, info) if in_progress(info) else None),
        "news": view.console.work.news(key_of(view, version)) or "",
        **does,
    }
    return Page("migration.html", values, 200, more)


def planned(view: View, to: int, state: str) -> list[PlannedMigration]:
    """Return what applying up to a version would do, as of the last minute; empty without the right to it.
    `state`: a text that changes with what is planned. Raises as `plan` does."""
    db = view.db
    key = "plan", db.uuid, to, state
    return view.session.polled(key, lambda: optional(lambda: db.migrations.plan(to=to)) or [], PLANNED_S)


def _plan_of(view: View, info: MigrationInfo, state: str) -> dict[str, Any]:
    """Return the plan of a pending migration and those before it, and why it cannot be applied."""
    try:
        found, problem = planned(view, info.version, state), ""
    except Error as error:
        found, problem = [], str(error)
    return {
        "steps": [(one, one.steps) for one in found],
        "costs": [(one, one.estimate) for one in found if one.estimate is not None],
        "cannot": problem,
    }


def no_folder(permits: Permits) -> str:
    """Return why a folder is not shown, as a sentence."""
    roles = f" (your roles: {', '.join(permits.roles)})" if permits.roles else ""
    return (
        "The folder and what happened to the migration are shown to those who may migrate, propose,"
        f" approve or audit{roles}."
    )


def actions(
    view: View,
    infos: Sequence[MigrationInfo],
    info: MigrationInfo,
    proposal: Proposal | None,
    permits: Permits,
) -> dict[str, Any]:
    """Return what may be done about a migration in this state, for _actions.html."""
    running = in_progress(info)
    applied = [one.version for one in infos if one.state is not State.PENDING]
    newest = bool(applied) and info.version == max(applied)
    verbs, first = list[str](), list[MigrationInfo]()
    if info.state is State.PENDING and permits.rules is None and not any(map(in_progress, infos)):
        verbs.append("apply")
        first = [one for one in infos if one.state is State.PENDING and one.version < info.version]
    elif running:
        verbs.append("cancel")
    elif info.held:
        verbs += ["complete", "rollback"]
    elif info.state in {State.APPLIED, State.EDITED, State.AHEAD} and newest:
        verbs.append("rollback")
    return {
        "verbs": verbs,
        "first": [f"{one.version}_{one.name}" for one in first],
        "permits": {verb: permits.of(verb, proposal) for verb in verbs},
        "named": permits.named,
        "who": permits.name,
        "base": href("db", view.database, "migrations", info.version),
        "previous": _previous(infos, info.version),
        "running": running,
    }


def before(db: RemoteDatabase, infos: Sequence[MigrationInfo], version: int) -> Details | None:
    """Return the migration before a version; None: this is the first, or the previous one cannot be shown."""
    older = [one.version for one in infos if one.version < version]
    try:
        return db.migrations.show(older[-1]) if older else None
    except (MigrationError, AccessError, UnavailableError):
        return None


def _version(view: View) -> int:
    word = view.path("version")
    if not (word.isascii() and word.isdecimal() and len(word) < 20):
        raise NotFoundError(f"there is no migration {word[:40]!r}")
    return int(word)


def _info(infos: Sequence[MigrationInfo], version: int) -> MigrationInfo:
    found = next((one for one in infos if one.version == version), None)
    if found is None:
        raise NotFoundError(f"there is no migration {version} in the folders of the server or in the log")
    return found


def mark(info: MigrationInfo, proposals: Sequence[Proposal] = ()) -> str:
    """Return a text that changes with the state of a migration, but not with its progress."""
    newest = _proposal_of(info.version, proposals)
    at = f"{newest.state}.{newest.last.seq}" if newest is not None else ""
    flags = f"{info.held:d}{info.rolling_back:d}{bool(info.stopped):d}{info.prepared:d}"
    return f"{info.state}.{flags}.{info.rolled_back_ns}.{at}".replace(" ", "-")


# forms


def key_of(view: View, subject: object) -> Key:
    """Return whose call it is, and about what."""
    return Key(view.console.visitor(view.request), f"{view.database}/{subject}")


class By(NamedTuple):
    """Who changes something, and why. An identity with a name leaves `actor` empty: the server knows it."""

    actor: str
    reason: str


def by_of(view: View, permits: Permits) -> By:
    """Return actor and reason of a form. Raises RowError without a reason, and without a name where the
    identity has none."""
    reason, actor = view.reason(), view.field("actor").strip()
    if permits.named:
        return By("", reason)
    if not actor:
        raise RowError("expected your name, found none; this sign-in has none, and the log keeps who decided")
    return By(actor, reason)


def refused(view: View, again: Callable[[View], Page], error: Error) -> Page:
    """Return the page of a form again, with its fields and why it was refused. Raises the error if it is not
    about the form."""
    if isinstance(error, (UnavailableError, LimitError)):
        raise error
    found = again(view)
    status = 403 if isinstance(error, AccessError) else 400 if isinstance(error, RowError) else 409
    words = str(error)
    return found._replace(
        status=status,
        values={**found.values, "error": words},
        shown={**found.shown, "refused": words},
    )


def _act(verb: str, words: str) -> Callable[[View], Page | Response]:
    """Return the handler of a form. `words`: what the next page says."""

    def handle(view: View) -> Page | Response:
        db, version = view.db, _version(view)
        infos, permits = db.migrations.status(), Permits(view, db)
        info = _info(infos, version)
        try:
            by = by_of(view, permits)
            if mark(info, optional(db.migrations.proposals) or []) != view.field("mark"):
                raise MigrationError("The state of this migration has changed since you loaded the page.")
            to = _previous(infos, version)
            sure = verb != "rollback" or view.field("sure") == "1"
            if not sure and any(one.lost for one in db.migrations.plan_rollback(to=to)):
                raise RowError("Confirm that you have read what would be lost.")
            calls: dict[str, Callable[[Callable[[], None]], object]] = {
                "apply": lambda began: db.migrations.apply(
                    to=version,
                    actor=by.actor,
                    reason=by.reason,
                    progress=lambda at: began() if at.done else None,
                ),
                "complete": lambda _: db.migrations.complete(actor=by.actor, reason=by.reason),
                "cancel": lambda _: db.migrations.cancel(actor=by.actor, reason=by.reason),
                "rollback": lambda began: db.migrations.rollback(
                    to=to, actor=by.actor, reason=by.reason, progress=lambda at: began() if at.done else None
                ),
            }
            begun = view.console.work.start(key_of(view, version), calls[verb])
        except Error as error:
            return refused(view, rollback_page if verb == "rollback" else migration, error)
        return view.done(href("db", view.database, "migrations", version), words if begun else WAITS)

    return handle


def _previous(infos: Sequence[MigrationInfo], version: int) -> int:
    """Return the version in the database before this one; 0: it is the first."""
    older = (one.version for one in infos if one.version < version and one.state is not State.PENDING)
    return max(older, default=0)


def rollback_page(view: View) -> Page:
    """Show what rolling back to before this version would do and lose."""
    db, version = view.db, _version(view)
    infos, proposals = db.migrations.status(), optional(db.migrations.proposals) or []
    info, permits = _info(infos, version), Permits(view, db)
    to = _previous(infos, version)
    planned, problem = list[PlannedRollback](), ""
    try:
        planned = db.migrations.plan_rollback(to=to)
    except MigrationError as found:
        problem = str(found)
    newest = _proposal_of(version, proposals)
    values = {
        "version": version,
        "name": info.name,
        "to": to,
        "planned": [
            {
                "title": one.title,
                "steps": [
                    {"text": step.text, "rows": step.rows, "instant": step.instant} for step in one.steps
                ],
                "lost": one.lost,
            }
            for one in planned
        ],
        "problem": problem,
    }
    more = {
        "steps": [(one, one.steps) for one in planned],
        "mark": mark(info, proposals),
        "lost": [words for one in planned for words in one.lost],
        "permit": permits.of("rollback", newest),
        "named": permits.named,
        "who": permits.name,
        "base": href("db", view.database, "migrations", version),
    }
    return Page("rollback.html", values, 200, more)


# progress


class Latency(NamedTuple):
    """Latencies of commits in seconds: of half of them, and of all but a hundredth; None: there were none."""

    p50: float | None
    p99: float | None


class Writers(NamedTuple):
    """What writers notice of a migration: latencies of the last minute, and of the time before it began."""

    now: Latency
    before: Latency


def writers(db: RemoteDatabase, info: MigrationInfo) -> Writers:
    """Return what the writers of a database notice, from the samples of its server. Read-only."""
    start_ns = info.started_ns
    taken = plots.samples_of(db, start_ns - BEFORE_S * plots.SECOND_NS, points=LATENCIES, latency=True)
    before = [one for one in taken if one.time_ns <= start_ns]
    during = [one for one in taken if one.time_ns > start_ns]
    minute_ns = during[-1].time_ns - NOW_S * plots.SECOND_NS if during else 0
    bases = [one for one in during[:-1] if one.time_ns >= minute_ns] or before[-1:]
    return Writers(latency_between([*bases[:1], *during[-1:]]), latency_between(before))


def latency_between(taken: Sequence[Sample]) -> Latency:
    """Return the latencies of the commits between the first and the last sample."""
    if len(taken) < 2:
        return Latency(None, None)
    counts = [after - was for was, after in zip(taken[0].latency, taken[-1].latency, strict=True)]
    return Latency(quantile(counts, 0.5), quantile(counts, 0.99))


def progress(
    info: MigrationInfo, rates: Sequence[float] = (), writers: Writers | None = None
) -> dict[str, Any]:
    """Return the progress of a migration for _progress.html. `rates`: the last rows a second."""
    running_s = max(0.0, time.time() - info.started_ns / 1e9) if info.started_ns else 0.0
    rate = rates[-1] if rates else info.rows / running_s if running_s else 0.0
    top = plots.top_of(rates)
    return {
        "title": info.title,
        "verb": "Rolling back" if info.rolling_back else "Building",
        "rows": info.rows,
        "total": max(info.rows, info.total),
        "percent": 100 * info.rows // max(info.rows, info.total, 1),
        "left_s": info.left_s,
        "rate": rate,
        "running_s": running_s,
        "stopped": sentence(info.stopped),
        "writers": writers,
        "top": top,
        "width": WIDTH,
        "height": HEIGHT,
        "area": plots.area(rates, WIDTH, HEIGHT, top) if len(rates) > 1 else "",
        "line": plots.line(rates, WIDTH, HEIGHT, top) if len(rates) > 1 else "",
    }


class Look(NamedTuple):
    """What a stream looks at: the mark of the page's state, the migration that is in progress, and what
    writers notice of it."""

    mark: str
    info: MigrationInfo | None
    writers: Writers | None = None


def streamed(console: Site, session: Session, look: Callable[[], Look], shown: str, subject: str) -> Response:
    """Return server-sent events: `progress` while a migration runs, `changed` when its mark is not the one
    that the page shows any more. `subject`: what `look` looks at; the pages of a session share it."""

    async def stream() -> AsyncIterator[str]:
        rates, last, quiet, seen = deque[float](maxlen=SAMPLES), (0, 0.0), 0.0, shown
        yield "retry: 1000\n\n"
        while not console.stopping:
            try:
                found = await run_in_threadpool(session.polled, subject, look, SHARED_S)
            except Error:
                return  # the page connects again, and learns why if it cannot
            if found.mark != seen:
                seen = found.mark
                yield "event: changed\ndata: \n\n"
            wait_s = POLL_S if found.info is not None else IDLE_S
            quiet += wait_s
            if found.info is not None:
                rows, now = found.info.rows, time.monotonic()
                if last[1]:
                    rates.append(max(0, rows - last[0]) / max(now - last[1], 0.001))
                last, quiet = (rows, now), 0.0
                html = fragment("_progress.html", progress=progress(found.info, rates, found.writers))
                yield "event: progress\n" + "".join(f"data: {line}\n" for line in html.splitlines()) + "\n"
            elif quiet >= PING_S:
                quiet = 0.0
                yield ": nothing new\n\n"
            await asyncio.sleep(wait_s)

    return live(console, session, stream())


def in_progress(info: MigrationInfo) -> bool:
    """Return whether rows of a migration are being built or converted back."""
    return (info.state is State.BUILDING and not info.held and not info.prepared) or info.rolling_back


async def events(request: Request) -> Response:
    """Stream the progress of one migration, and that its state has changed."""
    console: Site = request.app.state.console
    view = View(request, console)
    version, db = _version(view), await run_in_threadpool(lambda: view.db)

    def look() -> Look:
        info = _info(db.migrations.status(), version)
        proposals = optional(db.migrations.proposals) or []
        shown = mark(info, proposals)
        return Look(shown, info, writers(db, info)) if in_progress(info) else Look(shown, None)

    return streamed(console, view.session, look, view.query("mark"), f"{view.database}/{version}")


_ONE = "/db/{database}/migrations/{version}"
ROUTES = [
    *route("/db/{database}/migrations", migrations),
    *route(f"{_ONE}/rollback", rollback_page, "GET"),
    *route(f"{_ONE}/rollback", _act("rollback", "The rollback has begun."), "POST", twin=False),
    *route(f"{_ONE}/apply", _act("apply", "The migration has begun or is applied."), "POST", twin=False),
    *route(f"{_ONE}/complete", _act("complete", "One version is served."), "POST", twin=False),
    *route(f"{_ONE}/cancel", _act("cancel", "The migration is cancelled."), "POST", twin=False),
    Route(f"{_ONE}/events", events),
    *route(_ONE, migration, "GET"),
]
