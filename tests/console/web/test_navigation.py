"""The navigation: sections by rights, and what needs attention in each."""

from __future__ import annotations

import re

from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.upkeep.consumers import Cap
from everlog.store.upkeep.roles import Role, Rule
from tests.console.web.test_consumers import signed_in
from tests.console.web.visitor import Visitor


def sections(visitor: Visitor, path: str = "/db/flights/tables") -> dict[str, str]:
    """Return the number at each entry of the navigation of a page, by its title."""
    page = visitor.get(path).text
    navigation = page[page.index('aria-label="Main"') : page.index("</nav>")]
    found = re.findall(r'</svg>([^<]+)(?:<span class="count"[^>]*>(\d+))?', navigation)
    return {title: count for title, count in found if title not in {"Overview", "API"}}


def test_only_sections_that_the_identity_may_see_are_shown(
    console: Visitor, flights: EmbeddedDatabase
) -> None:
    every = ["Migrations", "Tables", "Log", "Load", "Consumers", "People", "Access", "Admin"]
    assert list(sections(signed_in(console, "ann"))) == every
    assert list(sections(signed_in(console, "bob"))) == [
        one for one in every if one not in {"Access", "Load"}
    ]
    flights.access.define(Role("rows", (Rule(("read",)),)), actor="ann", reason="x")
    flights.access.grant("carl", "rows", actor="ann", reason="x")
    assert list(sections(signed_in(console, "carl"))) == ["Migrations", "Tables", "Log"]


def test_a_section_has_the_number_of_things_that_need_attention(
    console: Visitor, flights: EmbeddedDatabase
) -> None:
    flights.consumers.register("mirror", after=1, cap=Cap(records=1), actor="ann", reason="x")
    ann = signed_in(console, "ann")
    found = sections(ann)
    assert found["Consumers"] == "1"
    assert found["Admin"] == ""
    form = {"name": "mirror", "typed": "mirror", "reason": "moved"}
    assert ann.post("/db/flights/consumers/remove", None, **form).status == 303
    assert sections(ann)["Consumers"] == "", "a form refreshes it"
