"""Proposal: those of all databases that the identity may see; one of them with its plan, and the decision.

    /migrations                       all, newest first
    /migrations/{digest}              one; operators are sent this link, whose form never changes
        POST decision=approve|reject  with a reason
    /migrations/{digest}/propose      proposes its migrations again
    /migrations/{digest}/events       progress and changes of its state, as server-sent events

An approval is of the plan that the page shows: the form has its digest, and the server compares the plan with
that of the moment. If two people decide at once, the second one gets the first decision as a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from everlog.console import output
from everlog.console.web import migrations, sources
from everlog.console.web.format import href
from everlog.console.web.migrations import (
    Look,
    by_of,
    key_of,
    optional,
    refused,
    streamed,
    word_of,
)
from everlog.console.web.page import Page, Site, View, missing, redirect, route
from everlog.console.web.permits import Permits
from everlog.migrations.details import Details
from everlog.migrations.estimate import Estimate
from everlog.migrations.proposal import MigrationEntry, Plan, Proposal, ProposalState, pick
from everlog.migrations.status import MigrationInfo, State
from everlog.rpc.client.database import RemoteDatabase
from everlog.store.errors import AccessError, Error, MigrationError, RowError, UnavailableError, quantity

_AGAIN = (ProposalState.REJECTED, ProposalState.FAILED, ProposalState.ROLLED_BACK)
TRIED = ("was tried", "FAILS")  # in the texts of steps that report the dry run


class Found(NamedTuple):
    """A proposal, and the name of its database at the server."""

    database: str
    proposal: Proposal


def _found(view: View) -> list[Found]:
    """Return the proposals that the identity may see, newest first."""
    found: list[Found] = []
    for name in view.session.databases():
        try:
            found += [Found(name, one) for one in view.session.database(name).migrations.proposals()]
        except (AccessError, UnavailableError):  # not visible to the identity, or an older server
            continue
    return sorted(found, key=lambda one: one.proposal.proposed.time_ns, reverse=True)


def proposals(view: View) -> Page:
    found, problems = _found(view), dict[str, str]()
    for name in view.session.databases():
        problem = optional(view.session.database(name).migrations.problem)
        if problem:
            problems[name] = problem
    shown = [(one.database, one.proposal, *word_of(one.proposal)) for one in found]
    values = {"proposals": [output.proposal_dict(one.proposal) for one in found], "problems": problems}
    return Page("proposals.html", values, 200, {"found": shown})


def _one(view: View) -> Found:
    """Return the proposal in the path, and make its database that of the page."""
    found = _found(view)
    try:
        proposal = pick([one.proposal for one in found][::-1], view.path("digest"))
    except MigrationError as error:
        raise missing(str(error)) from None
    name = next(one.database for one in found if one.proposal is proposal)
    view.request.path_params["database"] = name
    return Found(name, proposal)


def proposal(view: View) -> Page:
    name, one = _one(view)
    db, plan = view.db, one.plan
    (infos, problem), permits = migrations.known(db), Permits(view, db)
    found = [_details(db, entry) if permits.sees_folders else None for entry in plan.migrations]
    first = migrations.before(db, infos, plan.migrations[0].version) if permits.sees_folders else None
    texts = {
        f"v{details.title}": {file.path: details.file(file.path) for file in details.files}
        for details in found
        if details is not None
    }
    news, about = view.console.work.news(key_of(view, one.short)), _about(infos, plan)
    kind, word = _word(one, about)
    running = about if about is not None and migrations.in_progress(about) else None
    waiting = one.state is ProposalState.WAITING or bool(running and running.stopped)
    steps = [(entry, [step for step in entry.steps if not _tried(step.text)]) for entry in plan.migrations]
    shown = {
        "database": name,
        "proposal": one,
        "plan": plan,
        "kind": kind,
        "word": word,
        "steps": steps,
        "tried": [(entry, step) for entry in plan.migrations for step in entry.steps if _tried(step.text)],
        "built": sum(step.rows for _, each in steps for step in each if not step.instant),
        "costs": _costs(view, one) if one.state is ProposalState.WAITING else [],
        "findings": [(each, _anchor(each.file, each.line)) for each in plan.findings],
        "folders": [
            sources.folder(details, older, plan.findings)
            for details, older in zip(found, [first, *found[:-1]], strict=True)
            if details is not None
        ],
        "why_no_folder": "" if found[0] is not None else migrations.no_folder(permits),
        "events": one.events[::-1],
        "says": migrations.SAYS,
        "waiting": waiting,
        "deciding": news == "" and waiting,
        "approve": permits.of("approve", one),
        "reject": permits.of("reject", one),
        "again": one.state in _AGAIN and "propose" in permits.rights,
        "named": permits.named,
        "who": permits.name,
        "news": news or problem,
        "mark": _mark(one, infos),
        "migration_mark": migrations.mark(about, db.migrations.proposals()) if about is not None else "",
        "progress": migrations.progress(running, writers=migrations.writers(db, running))
        if running is not None
        else None,
        "info": about,
        **(migrations.actions(view, infos, about, one, permits) if about is not None else {"verbs": []}),
    }
    return Page("proposal.html", output.proposal_dict(one, texts), 200, shown)


def _details(db: RemoteDatabase, entry: MigrationEntry) -> Details | None:
    """Return the folder of a plan; None without the right to it."""
    found: Details | None = optional(
        lambda: db.migrations.show(entry.version, digest=bytes.fromhex(entry.digest))
    )
    return found


def _costs(view: View, one: Proposal) -> list[tuple[MigrationEntry, Estimate]]:
    """Return what the migrations of a proposal cost, estimated within the last minute."""
    try:
        planned = migrations.planned(view, one.plan.to_version, one.short)
    except Error:  # a folder has changed: the page says it elsewhere
        return []
    found = {entry.version: entry.estimate for entry in planned if entry.estimate is not None}
    return [(entry, found[entry.version]) for entry in one.plan.migrations if entry.version in found]


def _tried(text: str) -> bool:
    return any(words in text for words in TRIED)


def _anchor(file: str, line: int) -> str:
    """Return the id of a line in the page, from `v<version>_<name>/<path>`."""
    folder, _, path = file.partition("/")
    version = folder.removeprefix("v").partition("_")[0]
    return f"m{version}-{path}-{line}" if version.isdecimal() and path else ""


def _about(infos: Sequence[MigrationInfo], plan: Plan) -> MigrationInfo | None:
    """Return the migration of a plan that is in progress, or that holds two versions; else the last one, if
    it is applied."""
    versions = {entry.version for entry in plan.migrations}
    own = [info for info in infos if info.version in versions and info.state is not State.PENDING]
    busy = [info for info in own if info.state is State.BUILDING or info.rolling_back]
    return next(iter(busy or own[-1:]), None)


def _word(one: Proposal, info: MigrationInfo | None) -> tuple[str, str]:
    """Return the state of a proposal in a word, with its urgency."""
    busy = info is not None and (info.held or migrations.in_progress(info))
    if info is not None and busy and one.state in {ProposalState.APPROVED, ProposalState.FINISHED}:
        found = migrations.shown(info)
        return found.kind, found.word
    return word_of(one)


def _mark(one: Proposal, infos: Sequence[MigrationInfo]) -> str:
    """Return a text that changes with the state of a proposal, but not with its progress."""
    about = _about(infos, one.plan)
    return f"{one.state}.{one.last.seq}.{migrations.mark(about) if about is not None else ''}".replace(
        " ", "-"
    )


def decide(view: View) -> Page | Response:
    """Approve or reject, and return to the page."""
    _, one = _one(view)
    db, verb, digest = view.db, view.field("decision"), one.digest.hex()
    despite = view.field("despite_errors") == "1"

    def call(began: Callable[[], None]) -> None:
        if verb == "reject":
            db.migrations.reject(digest, actor=by.actor, reason=by.reason)
            return
        db.migrations.approve(
            digest,
            actor=by.actor,
            reason=by.reason,
            despite_errors=despite,
            approved=lambda _: began(),
        )

    try:
        by = by_of(view, Permits(view, db))
        if verb not in {"approve", "reject"}:
            raise RowError("expected approve or reject as the decision, found neither")
        errors = one.plan.errors if verb == "approve" and one.state is ProposalState.WAITING else []
        if errors and not despite:
            raise RowError(
                f"This plan has {quantity(len(errors), 'error')}. Read them, and confirm that you approve it"
                " despite them."
            )
        begun = view.console.work.start(key_of(view, one.short), call)
    except Error as error:
        return refused(view, proposal, error)
    words = "approved. It is applied now" if verb == "approve" else "rejected. It is not applied"
    return view.done(href("migrations", digest), f"The plan is {words}." if begun else migrations.WAITS)


def propose(view: View) -> Page | Response:
    """Propose the migrations of a decided proposal again, and go to the page of the new one."""
    name, one = _one(view)
    db, made = view.db, list[Proposal]()

    def call(_: Callable[[], None]) -> None:
        found = db.migrations.propose(actor=by.actor, reason=by.reason)
        made.extend([found] if found is not None else [])

    try:
        by = by_of(view, Permits(view, db))
        view.console.work.start(key_of(view, one.short), call)
    except Error as error:
        return refused(view, proposal, error)
    if made:
        return view.done(href("migrations", made[0].digest.hex()), "The migrations are proposed again.")
    return redirect(href("db", name, "migrations"))


async def events(request: Request) -> Response:
    """Stream the progress of a proposal, and that its state has changed."""
    console: Site = request.app.state.console
    view = View(request, console)
    _, one = await run_in_threadpool(_one, view)
    db = await run_in_threadpool(lambda: view.db)

    def look() -> Look:
        infos, _ = migrations.known(db)
        now = pick(db.migrations.proposals(), one.digest.hex())
        about = _about(infos, now.plan)
        busy = about is not None and migrations.in_progress(about)
        shown = _mark(now, infos)
        return Look(shown, about, migrations.writers(db, about)) if busy and about else Look(shown, None)

    return streamed(console, view.session, look, view.query("mark"), one.digest.hex())


ROUTES = [
    *route("/migrations", proposals),
    *route("/migrations/{digest}/propose", propose, "POST", twin=False),
    Route("/migrations/{digest}/events", events),
    *route("/migrations/{digest}", proposal, "GET"),
    *route("/migrations/{digest}", decide, "POST", twin=False),
]
