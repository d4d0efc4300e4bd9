"""The pages of access: grants, roles, tokens and explanations."""

from __future__ import annotations

import re
import time

import msgspec
import pytest

from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.upkeep.allowance import Allowance
from everlog.store.upkeep.conditions import Comparison
from everlog.store.upkeep.roles import Role, Rule
from tests.console.web.test_consumers import signed_in
from tests.console.web.visitor import Visitor, console_of

PAGE = "/db/flights/access"


def test_a_role_is_granted_explained_and_taken_away(console: Visitor, flights: EmbeddedDatabase) -> None:
    ann = signed_in(console, "ann")
    assert "No roles are granted" in ann.get(PAGE).words
    form = {"identity": "carl", "role": "reader", "tables": "air* flights"}
    assert "expected a reason" in ann.post(f"{PAGE}/grant", None, **form).words
    granted = ann.post(f"{PAGE}/grant", None, reason="joins sales", **form)
    assert granted.status == 303
    assert "carl has the role reader (commit" in ann.get(granted.headers["location"]).words
    (one,) = ann.json(PAGE)["identities"]
    assert (one["identity"], one["grants"][0]["tables"]) == ("carl", ["air*", "flights"])
    assert one["grants"][0]["change"]["actor"] == "ann"

    found = ann.json(f"{PAGE}/explain?who=carl&verb=read&table=airports&key=JFK&field=name")
    assert found["allowed"] is True
    assert any("commit" in sentence for sentence in found["because"])
    page = ann.get(f"{PAGE}/explain?who=carl&verb=delete&table=airports").words
    assert "Denied" in page
    earlier = ann.json(f"{PAGE}/explain?who=carl&verb=read&at={flights.head - 1}")
    assert earlier["allowed"] is False
    for query in (
        "who=carl&verb=dance",
        "who=carl&verb=read&key=JFK",
        "who=carl&verb=read&table=airports&key=a/b",
    ):
        assert ann.json(f"{PAGE}/explain?{query}")["problem"], query

    path = ann.get(f"{PAGE}?revoke=carl&role=reader&table=air*&table=flights")
    assert "Take the role reader from carl only the grant on air*, flights" in path.words
    refused = ann.post(f"{PAGE}/revoke", None, revoke="1", typed="bob", reason="left", **form)
    assert refused.status == 400
    assert "expected 'carl' to confirm this" in refused.words
    assert ann.post(f"{PAGE}/revoke", None, typed="carl", reason="left", **form).status == 303
    assert ann.json(PAGE)["identities"] == []


def test_a_role_with_dangerous_rights_needs_its_identity_typed(
    console: Visitor, flights: EmbeddedDatabase
) -> None:
    ann = signed_in(console, "ann")
    ann.get(PAGE)
    form = {"identity": "carl", "role": "owner", "reason": "runs it"}
    assert ann.post(f"{PAGE}/grant", None, **form).status == 400
    assert flights.access.show().grants == []
    assert ann.post(f"{PAGE}/grant", None, typed="carl", **form).status == 303
    assert ann.post(f"{PAGE}/grant", None, identity="x", role="nobody", reason="x").status == 400


def test_a_role_is_defined_extended_and_removed(open_console: Visitor, flights: EmbeddedDatabase) -> None:
    path = f"{PAGE}/roles"
    assert "ready-made" in open_console.get(path).words
    form = {"name": "clerk", "right": "read", "tables": "airports", "reason": "the desk"}
    assert open_console.post(path, None, rows="tz", **form).status == 400
    assert open_console.post(path, None, rows="faa=JFK\nfaa = LGA", hidden="lat lon", **form).status == 303
    more = {"name": "clerk", "right": "write", "op": "put", "add": "1", "reason": "the desk"}
    assert open_console.post(path, None, **more).status == 303
    (role,) = [role for role, change in flights.access.show().roles if change]
    assert [rule.unbound for rule in role.rules] == [
        Rule(("read",), ("airports",), (), {"faa": ("JFK", "LGA")}, ("lat", "lon")),
        Rule(("write",), (), ("put",)),
    ]
    assert "rows with faa = JFK or LGA" in open_console.get(path).words
    flights.access.define(msgspec.structs.replace(role, allowance=Allowance(calls=50, rows=0)))
    more = {"name": "clerk", "right": "read", "rows": "faa < M", "tables": "airports", "add": "1"}
    assert open_console.post(path, None, reason="the desk", **more).status == 303
    (role,) = [role for role, change in flights.access.show().roles if change]
    assert role.allowance == Allowance(calls=50, rows=0), "adding a rule keeps the limits"
    assert role.rules[2].comparisons == (Comparison("faa", "<", ("M",)),)
    words = open_console.get(path).words
    assert "of one caller at most 50 calls a second, rows in one call: no limit" in words
    assert "rows with faa < M" in words
    assert open_console.post(path, None, name="boss", right="grant", reason="x").status == 400
    assert open_console.post(path, None, name="boss", right="grant", typed="boss", reason="x").status == 303
    for name in ("clerk", "boss"):
        assert f"Remove the role {name}" in open_console.get(f"{path}?remove={name}").words
        assert open_console.post(f"{path}/remove", None, name=name, typed=name, reason="x").status == 303
    assert [role for role, change in flights.access.show().roles if change] == []


def once(visitor: Visitor) -> str:
    found = re.search(r'name="once" value="([^"]+)"', visitor.get(f"{PAGE}/tokens").text)
    assert found
    return found[1]


def test_a_token_is_shown_once_signs_in_and_ends(console: Visitor, flights: EmbeddedDatabase) -> None:
    ann = signed_in(console, "ann")
    form = {"name": "deploy", "role": "reader", "days": "10", "reason": "releases", "once": once(ann)}
    made = ann.post(f"{PAGE}/tokens", None, **form)
    assert made.status == 200
    text = re.search(r'<pre class="code" id="token" tabindex="0">(evl_[^<]+)</pre>', made.text)
    assert text
    again = ann.post(f"{PAGE}/tokens", None, **form)
    assert again.status == 400
    assert "this form was sent already" in again.words
    assert text[1] not in ann.get(f"{PAGE}/tokens").text + again.text
    (listed,) = ann.json(f"{PAGE}/tokens")["tokens"]
    assert (listed["name"], listed["state"]) == ("deploy", "Ends soon")
    assert 0 < listed["ends_ns"] - time.time_ns() < 11 * 86_400 * 10**9
    deploy = Visitor(console.url)
    assert deploy.sign_in(text[1]).status == 303
    assert deploy.get("/db/flights/tables").status == 200

    id = listed["id"]
    assert "Replace the token of deploy" in ann.get(f"{PAGE}/tokens?rotate={id}").words
    form = {"id": id, "name": "deploy", "typed": "deploy", "reason": "yearly", "once": once(ann)}
    rotated = ann.post(f"{PAGE}/tokens/rotate", None, hours="0", **form)
    assert rotated.status == 200
    assert "evl_" in rotated.text
    assert deploy.get("/db/flights/tables", follow=False).status == 303, "its token was replaced"
    (other,) = ann.json(f"{PAGE}/tokens")["tokens"]
    assert other["id"] != id
    form = {"id": other["id"], "name": "deploy", "reason": "leaked"}
    assert ann.post(f"{PAGE}/tokens/revoke", None, typed="x", **form).status == 400
    assert ann.post(f"{PAGE}/tokens/revoke", None, typed="deploy", **form).status == 303
    found = ann.json(f"{PAGE}/tokens?all=1")
    assert (len(found["tokens"]), found["ended"]) == (2, 2)
    assert "2 ended" in ann.get(f"{PAGE}/tokens").words


def test_the_first_token_of_a_server_is_shown_although_the_console_has_no_rights_any_more(
    flights: EmbeddedDatabase,
) -> None:
    with console_of({"flights": flights}) as web:
        visitor = Visitor(web.url)
        assert "the first token of this database" in visitor.get(f"{PAGE}/tokens").words
        form = {"name": "root", "role": "owner", "typed": "root", "days": "0", "reason": "from now on"}
        made = visitor.post(f"{PAGE}/tokens", None, once=once(visitor), **form)
        text = re.search(r'id="token" tabindex="0">(evl_[^<]+)<', made.text)
        assert text
        assert "does not answer" not in re.sub(r"(?s)<div[^>]* hidden>.*?</div>", "", made.text)
        assert visitor.get(PAGE, follow=False).status == 303, "everybody signs in now"
        assert visitor.sign_in(text[1]).status == 303
        assert visitor.get(PAGE).status == 200


def test_reads_of_a_table_are_recorded(open_console: Visitor, flights: EmbeddedDatabase) -> None:
    open_console.get(PAGE)
    form = {"table": "airports", "reason": "contract 12"}
    assert open_console.post(f"{PAGE}/audit", None, percent="150", **form).status == 400
    assert open_console.post(f"{PAGE}/audit", None, percent="50", **form).status == 303
    (one,) = open_console.json(PAGE)["audits"]
    assert (one["table"], one["share"]) == ("airports", 0.5)


def test_who_may_not_see_access_is_refused_and_an_auditor_sees_no_form(
    console: Visitor, flights: EmbeddedDatabase
) -> None:
    bob = signed_in(console, "bob")
    for path in ("", "/roles", "/tokens"):
        assert bob.get(f"{PAGE}{path}").status == 403
    bob.get("/account")
    for path in (
        "grant",
        "revoke",
        "audit",
        "roles",
        "roles/remove",
        "tokens",
        "tokens/rotate",
        "tokens/revoke",
    ):
        form = {
            "identity": "bob",
            "role": "reader",
            "name": "bob",
            "typed": "bob",
            "reason": "x",
            "days": "1",
        }
        assert bob.post(f"{PAGE}/{path}", None, **form).status == 403, path
    flights.access.define(Role("viewer", (Rule(("audit", "status")),)), actor="ann", reason="x")
    flights.access.grant("carl", "viewer", actor="ann", reason="x")
    carl = signed_in(console, "carl")
    for path in ("", "/roles", "/tokens"):
        page = carl.get(f"{PAGE}{path}")
        assert page.status == 200
        assert 'method="post"' not in page.text


@pytest.mark.parametrize("days", ["soon", "-1", "99999999"])
def test_an_invalid_life_of_a_token_is_refused(open_console: Visitor, days: str) -> None:
    form = {"name": "deploy", "days": days, "reason": "x", "once": once(open_console)}
    answer = open_console.post(f"{PAGE}/tokens", None, **form)
    assert answer.status == 400
    assert "expected days as a number" in answer.words
