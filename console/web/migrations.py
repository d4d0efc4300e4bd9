"""Migrations: the proposals of all databases that the identity may see, and one of them.

/migrations             all, newest first
/migrations/<digest>    one; operators are sent this link, whose form never changes
"""

from __future__ import annotations

from everlog.console.web.page import Page, View, missing, route
from everlog.console.web.proposal import told
from everlog.migrations.proposal import Proposal, pick
from everlog.store.errors import AccessError, MigrationError, UnavailableError


def _proposals(view: View) -> list[Proposal]:
    found: list[Proposal] = []
    for name in view.session.databases():
        try:
            found += view.session.database(name).migrations.proposals()
        except (AccessError, UnavailableError):  # not visible to the identity, or an older server
            continue
    return sorted(found, key=lambda one: one.proposed.time_ns, reverse=True)


def proposals(view: View) -> Page:
    return Page("proposals.html", {"proposals": [told(one) for one in _proposals(view)]})


def proposal(view: View) -> Page:
    try:
        one = pick(_proposals(view), view.path("digest"))
    except MigrationError as error:
        raise missing(str(error)) from None
    return Page("proposal.html", told(one, sources=True))


ROUTES = [*route("/migrations", proposals), *route("/migrations/{digest}", proposal)]
