"""The pages of consumers: what they show, and what they change."""

from __future__ import annotations

import re
import time

import pytest

from everlog.console.web.consumers import _behind
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.upkeep.consumers import Cap
from tests.console.web.conftest import TOKENS
from tests.console.web.visitor import Visitor, console_of

PAGE = "/db/flights/consumers"
STRANGE = 'a/b & "c" <i>?#%41'


def signed_in(visitor: Visitor, name: str) -> Visitor:
    found = Visitor(visitor.url)
    assert found.sign_in(TOKENS[name]).status == 303
    return found


def test_a_consumer_is_shown_with_its_lag_and_what_is_held(
    open_console: Visitor, flights: EmbeddedDatabase
) -> None:
    assert "everlog follow --consumer NAME registers one" in open_console.get(PAGE).words
    held = flights.consumers.register("mirror", after=2, cap=Cap(seconds=86_400), actor="ann", reason="x")
    flights.consumers.bookmark(held, held.position)
    (one,) = open_console.json(PAGE)["consumers"]
    assert (one["name"], one["position"], one["lag_records"]) == ("mirror", 2, flights.head - 2)
    assert one["held_bytes"] > 0
    assert 0 < one["held_until_ns"] - time.time_ns() <= 86_400 * 10**9
    page = open_console.get(f"{PAGE}/one?name=mirror")
    assert f"{flights.head - 2} commits behind" in page.words
    assert 'class="stroke" d="M' in page.text
    found = open_console.json(f"{PAGE}/one.json?name=mirror&range=15m")
    assert found["lag"][-1] == flights.head - 2
    assert open_console.get(f"{PAGE}/one?name=mirror&range=7m").status == 400
    assert open_console.get(f"{PAGE}/one?name=nobody").status == 404


def test_a_consumer_beyond_its_cap_comes_first_on_the_overview(
    open_console: Visitor, flights: EmbeddedDatabase
) -> None:
    flights.consumers.register("mirror", after=1, cap=Cap(records=1), actor="ann", reason="x")
    (thing,) = open_console.json("/")["attention"]
    assert thing["badge"] == "Dropped"
    assert "more than 1 record: no records are held for it" in open_console.get(thing["href"]).words


def test_a_consumer_is_registered_changed_and_removed_with_a_reason(
    console: Visitor, flights: EmbeddedDatabase
) -> None:
    ann = signed_in(console, "ann")
    ann.get(PAGE)
    form = {"name": STRANGE, "days": "2", "bytes": "0", "records": "1,000"}
    refused = ann.post(PAGE, None, **form)
    assert refused.status == 400
    assert "Nothing was changed. expected a reason" in refused.words
    assert 'value="1,000"' in refused.text, "the fields are kept"
    assert list(flights.consumers) == []
    done = ann.post(PAGE, None, reason="the search of the site", **form)
    assert done.status == 303
    page = ann.get(done.headers["location"])
    assert f"Consumer {STRANGE} is registered." in page.words
    assert "<i>" not in re.sub(r"<pre.*?</pre>", "", page.text)
    assert "is registered" not in ann.get(done.headers["location"]).words, "words are shown once"
    (one,) = flights.consumers
    assert (one.name, one.cap) == (STRANGE, Cap(records=1000, seconds=2 * 86_400, bytes=0))
    again = ann.post(PAGE, name=STRANGE, known="1", days="0", owner="ann", reason="hers")
    assert again.status == 303
    assert flights.consumers[STRANGE].owner == "ann"
    assert ann.post(f"{PAGE}/remove", name=STRANGE, typed="ab", reason="moved").status == 400
    removed = ann.post(f"{PAGE}/remove", name=STRANGE, typed=STRANGE, reason="moved away")
    assert removed.status == 303
    assert list(flights.consumers) == []
    (newest,) = list(flights.past.log(after=flights.head - 1))
    assert (newest.actor, newest.reason) == ("ann", "moved away")


@pytest.mark.parametrize(
    ("field", "value"), [("days", "soon"), ("days", "-1"), ("bytes", "1.5"), ("records", "ten"), ("name", "")]
)
def test_invalid_fields_are_refused_beside_the_form(
    open_console: Visitor, flights: EmbeddedDatabase, field: str, value: str
) -> None:
    open_console.get(PAGE)
    answer = open_console.post(PAGE, None, **{"name": "mirror", "reason": "x", field: value})
    assert answer.status == 400
    assert "Nothing was changed." in answer.words
    assert list(flights.consumers) == []


def test_who_may_not_change_consumers_sees_no_form_and_is_refused(
    console: Visitor, flights: EmbeddedDatabase
) -> None:
    flights.consumers.register("mirror", actor="ann", reason="x")
    bob = signed_in(console, "bob")
    page = bob.get(f"{PAGE}/one?name=mirror")
    assert page.status == 200
    assert "<form" not in page.text
    assert bob.post(PAGE, name="other", reason="x").status == 403
    assert bob.post(f"{PAGE}/remove", name="mirror", typed="mirror", reason="x").status == 403
    assert [one.name for one in flights.consumers] == ["mirror"]
    bob.csrf = "0" * 64
    assert "not from a page of this console" in bob.post(PAGE, name="other", reason="x").words


def test_running_subscriptions_are_shown_registered_or_not(
    open_console: Visitor, flights: EmbeddedDatabase
) -> None:
    from everlog.rpc.client.database import RemoteDatabase

    assert "No follower is connected" in open_console.get(PAGE).words
    with console_of({"flights": flights}) as web:
        visitor = Visitor(web.url)
        address = web.server._replace(database="flights")
        with RemoteDatabase(address) as remote, remote.feed() as feed:
            next(iter(feed.batches()))
            (one,) = visitor.json(PAGE)["subscriptions"]
            assert one["peer"].startswith("127.0.0.1:")


def test_the_distance_is_known_between_known_positions() -> None:
    assert _behind([0, 10, 15, 20, 30], [5, 6, 8, 10, 11], [(10, 2), (20, 6)]) == [None, 4, 4, 4, None]
