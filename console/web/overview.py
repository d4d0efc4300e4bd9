"""Overview: all databases of the server, what needs attention first."""

from __future__ import annotations

from everlog.console.web.page import Page, View, route


def overview(view: View) -> Page:
    return Page("overview.html", {"names": view.session.databases()})


ROUTES = [*route("/", overview), *route("/overview", overview)]
