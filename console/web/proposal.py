"""Proposal: one proposal as an HTML page and as JSON.

Proposal ─▶ told: JSON values ─▶ page: self-contained HTML, without scripts
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import msgspec

from everlog.console import output
from everlog.migrations.proposal import (
    Event,
    MigrationEntry,
    Plan,
    Proposal,
    ProposalState,
    Sources,
    folder_of,
)

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;"
    "padding:.25rem .75rem .25rem 0;border-bottom:1px solid #ddd}td.n{text-align:right}"
    "code,pre{font-family:ui-monospace,monospace;font-size:.9em}pre{background:#f4f4f4;padding:.75rem;"
    "overflow-x:auto}.waiting{color:#a60}.failed,.rejected,.error{color:#b00}.finished{color:#070}"
)

HELD = " Where rows are rewritten, the previous version is served as well until `everlog complete`."


def told(proposal: Proposal, *, sources: bool = False) -> dict[str, Any]:
    """Return a proposal as JSON values, for the page and `everlog migrations proposals --json`.

    `sources`: include the content of files by folder and path, as text; null for a file that is not text.
    """
    if sources:
        files = {
            folder: {path: _text(content) for path, content in found.items()}
            for folder, found in proposal.sources.items()
        }
        return {**told(proposal), "sources": files}
    return {
        "digest": proposal.digest.hex(),
        "state": str(proposal.state),
        "url": proposal.url,
        "plan": msgspec.to_builtins(proposal.plan),
        "events": [event(one) for one in proposal.events],
    }


def named(one: Event) -> str:
    """Return the actor of an event, and how the actor is authenticated."""
    return f"{one.actor} ({one.proof})" if one.actor else ""


def event(one: Event) -> dict[str, Any]:
    """Return an event as JSON values."""
    found: dict[str, Any] = msgspec.to_builtins(one)
    return found


def page(proposal: Proposal) -> str:
    """Return the page of one proposal."""
    plan, sources = proposal.plan, proposal.sources
    name = escape(plan.name or plan.database)
    return _whole(
        f"{name}: migration to {plan.to_version}",
        [
            f"<h1>{name}: migration to {plan.to_version}</h1>",
            f'<p>It <b class="{proposal.state}">is {proposal.state}</b>.</p>',
            _facts(proposal, plan),
            *_decide(proposal),
            "<h2>Plan</h2>",
            *(_migration(one, sources) for one in plan.migrations),
            f"<p>Rows are those of commit {plan.at:,}.{HELD if plan.hold else ''}</p>",
            "<h2>Findings of lint</h2>",
            _findings(plan),
            "<h2>Events</h2>",
            _events(proposal.events),
            '<p><a href="../migrations">All proposals</a></p>',
        ],
    )


def overview(found: Iterable[Proposal], problems: Mapping[str, str]) -> str:
    """Return the page of these proposals, in their order, and of `problems` by database."""
    wrong = [
        f'<p class="error">{escape(name)}: pending migrations cannot be applied: {escape(problem)}</p>'
        for name, problem in problems.items()
    ]
    rows = [
        (
            f'<a href="migrations/{one.digest.hex()}"><code>{one.short}</code></a>',
            escape(one.plan.name or one.plan.database),
            str(one.plan.to_version),
            f'<span class="{one.state}">{one.state}</span>',
            output.moment(one.proposed.time_ns),
            escape(named(one.proposed)),
        )
        for one in found
    ]
    table = _table(("digest", "database", "to version", "state", "proposed", "by"), rows)
    return _whole("Proposals", ["<h1>Proposals</h1>", *wrong, table if rows else "<p>No proposals.</p>"])


def missing(words: str) -> str:
    return _whole("Not found", [f"<h1>Not found</h1><p>{escape(words)}</p>"])


def _facts(proposal: Proposal, plan: Plan) -> str:
    rows = [
        ("digest", f"<code>{proposal.digest.hex()}</code>"),
        ("database", f"<code>{escape(plan.database)}</code>"),
        ("from, to", f"{plan.from_version or 'nothing'} → {plan.to_version}"),
        ("proposed", f"{output.moment(proposal.proposed.time_ns)} {_by(proposal.proposed)}"),
    ]
    return _table((), rows)


def _decide(proposal: Proposal) -> list[str]:
    if proposal.state is not ProposalState.WAITING:
        return []
    words, errors = proposal.short, proposal.plan.errors
    despite = " --despite-errors" if errors else ""
    reject = f"everlog -u URL reject {words} --reason …"
    return [
        "<h2>Decide</h2>",
        *(f'<p class="error">{escape(error)}</p>' for error in errors),
        f"<pre>everlog -u URL approve {words}{despite} --reason …\n{reject}</pre>",
    ]


def _migration(one: MigrationEntry, sources: Sources) -> str:
    rows = [
        (
            f'<b class="error">{escape(step.text)}</b>' if step.problem else escape(step.text),
            f"{step.rows:,}" if step.rows else "",
            "instant" if step.instant else "built",
        )
        for step in one.steps
    ]
    found = sources.get(folder_of(one), {})
    files = "".join(_file(path, digest, found.get(path)) for path, digest in one.files.items())
    return (
        f"<h3>{escape(one.title)}</h3>{_table(('step', 'rows', 'how'), rows)}"
        f"<h4>Files, digest {escape(one.digest[:12])}</h4>{files}"
    )


def _file(path: str, digest: str, content: bytes | None) -> str:
    """Return a file of a folder as HTML, collapsed."""
    shown = "<p>Too large to be stored with the proposal.</p>"
    if content is not None:
        words = _text(content)
        shown = f"<p>{len(content):,} bytes, not text.</p>" if words is None else _lines(words)
    return (
        f"<details><summary>{escape(path)}</summary><p>SHA-256 <code>{escape(digest)}</code></p>"
        f"{shown}</details>"
    )


def _lines(words: str) -> str:
    return f"<pre>{escape(words)}</pre>"


def _text(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _findings(plan: Plan) -> str:
    if not plan.findings:
        return "<p>None.</p>"
    rows = [
        (
            f'<span class="{escape(one.severity)}">{escape(one.severity)}</span>',
            f"{escape(one.file)}:{one.line}",
            escape(one.id),
            escape(one.text) + (f"<br>{escape(one.fix)}" if one.fix else ""),
        )
        for one in plan.findings
    ]
    return _table(("", "where", "id", "what"), rows)


def _events(events: Iterable[Event]) -> str:
    rows = [
        (
            str(one.seq),
            output.moment(one.time_ns),
            escape(one.step),
            _by(one) + (f'<br><span class="failed">{escape(one.error)}</span>' if one.error else ""),
        )
        for one in events
    ]
    return _table(("commit", "when", "what", "who and why"), rows)


def _by(one: Event) -> str:
    return (
        f"{'by ' + escape(named(one)) if one.actor else ''}{': ' + escape(one.reason) if one.reason else ''}"
        f"{' (despite errors)' if one.despite_errors else ''}"
    )


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    first = "".join(f"<th>{head}" for head in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows)
    return f"<table>{f'<tr>{first}' if first else ''}{body}</table>"


def _whole(title: str, parts: Iterable[str]) -> str:
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    return f"{head}<style>{STYLE}</style>{''.join(parts)}</html>\n"
