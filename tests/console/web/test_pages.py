"""The pages of a database: what they show, their JSON twins, and bad input."""

from __future__ import annotations

import base64
import html
import http.client
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode

import pytest

from everlog.console.export import exported
from everlog.console.web import asof
from everlog.console.web import rows as rows_
from everlog.migrations.rows import read_csv, read_jsonl
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.testing import at_version
from everlog.store.schema.reflect import table_of
from everlog.store.schema.times import time_ns_of
from flights.migrations.v20260209154500_airport_time_zones import AIRPORTS, FLIGHTS, Airport, Flight
from tests.console.web.conftest import TOKENS
from tests.console.web.visitor import Visitor, console_of
from tests.store.models import declare
from tests.store.people import MASTER, PATIENTS, patient

DB = "/db/flights"
STRANGE = '<script>alert("1")</script> & ünïcødé / ? # %41 \u202e'


@pytest.fixture
def visitor(flights: EmbeddedDatabase) -> Iterator[Visitor]:
    """Yield a visitor of a database with some commits by people."""
    for actor, name in (("ann", "first"), ("bob", "second"), ("ann", "third")):
        with flights.transaction(actor=actor, reason=f"the {name} name", correlation_id=f"c-{name}") as tx:
            tx.put(AIRPORTS, Airport(faa="ZZZ", name=name, lat=1.5, alt=-3))
    with console_of({"flights": flights}) as web:
        yield Visitor(web.url)


def rows(visitor: Visitor, table: str, **query: object) -> Any:
    return visitor.json(f"{DB}/tables/{table}?{urlencode(query)}")


def test_the_overview_shows_each_database_with_its_numbers(
    visitor: Visitor, flights: EmbeddedDatabase
) -> None:
    found = visitor.json("/")
    (one,) = found["databases_shown"]
    assert (one["name"], one["head"], one["kind"]) == ("flights", flights.head, "ok")
    assert one["rows"] == sum(table.rows for table in flights.admin.status().tables)
    assert sum(found["commits"]["flights"]["counts"]) == flights.head
    page = visitor.get("/?range=24h").words
    assert "Needs attention nothing" in page
    assert "airport_time_zones" in page
    assert visitor.get("/?range=7m").status == 400


def test_the_overview_begins_with_what_needs_attention(visitor: Visitor, flights: EmbeddedDatabase) -> None:
    flights.folders = "flights.migrations"
    flights.migrations.rollback(1, actor="ann", reason="to propose it again")
    proposed = flights.migrations.propose(actor="bob", reason="the names of time zones")
    assert proposed is not None
    (thing,) = visitor.json("/")["attention"]
    assert thing["badge"] == "Waiting"
    assert "bob proposed it" in thing["words"]
    page = visitor.get(thing["href"])
    assert page.status == 200
    assert "waiting" in page.words
    assert visitor.json(thing["href"])["digest"] == proposed.digest.hex()
    assert "flights" in visitor.get("/migrations").words
    assert visitor.get("/migrations/123456").status == 404


def test_tables_have_their_schema_in_words_and_as_proto(visitor: Visitor) -> None:
    found = {one["name"]: one for one in visitor.json(f"{DB}/tables")["tables"]}
    assert found["flights"]["key"] == ["year", "month", "day", "carrier", "flight", "origin"]
    assert [one["name"] for one in found["flights"]["indexes"]] == ["by_plane", "by_route"]
    page = visitor.get(f"{DB}/tables/airlines")
    assert "unique index by_name name" in page.words
    assert "message Airline { string carrier = 1; string name = 2; }" in page.words
    assert "optional string tzone = 8;" in visitor.get(f"{DB}/tables/airports").words


def test_rows_are_paged_by_key_in_both_directions(visitor: Visitor, flights: EmbeddedDatabase) -> None:
    every = [row.faa for row in flights.scan(AIRPORTS)]
    for reverse in ("", "1"):
        found, resume = list[str](), ""
        while True:
            page = rows(visitor, "airports", reverse=reverse, resume=resume)
            found += [row["faa"] for row in page["found"]]
            resume = str(page["next"])
            if not resume:
                break
        assert found == (every[::-1] if reverse else every)


@pytest.mark.parametrize(
    "query",
    [{}, pytest.param({"q": "alt > 10"}, marks=pytest.mark.long), {"q": "tzone ~ america/n", "reverse": "1"}],
)
def test_the_previous_page_has_the_rows_before_it(
    visitor: Visitor, flights: EmbeddedDatabase, query: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_, "READ_S", 60)
    for where in ({}, {"at": str(flights.head - 1)}):
        pages, resume, page = list[list[str]](), "", dict[str, Any]()
        while resume or not pages:
            page = rows(visitor, "airports", limit=400, resume=resume, **where, **query)
            assert bool(page["previous"]) == bool(resume)
            pages.append([row["faa"] for row in page["found"]])
            resume = page["next"]
        assert len(pages) > 1
        for expected in pages[-2::-1]:
            page = rows(visitor, "airports", limit=400, before=page["previous"], **where, **query)
            assert [row["faa"] for row in page["found"]] == expected
        assert page["previous"] == "" or query
        last = rows(visitor, "airports", limit=400, resume=page["next"], **where, **query)
        assert [row["faa"] for row in last["found"]] == pages[1]


def test_the_first_page_is_full_whatever_page_it_is_reached_from(visitor: Visitor) -> None:
    first = rows(visitor, "airports", limit=5)
    second = rows(visitor, "airports", limit=5, resume=first["next"])
    again = rows(visitor, "airports", limit=50, before=second["previous"])
    assert again["found"] == rows(visitor, "airports", limit=50)["found"]
    assert again["previous"] == ""
    index = rows(visitor, "flights", limit=9, index="by_plane", reverse="1")
    page = rows(visitor, "flights", limit=9, index="by_plane", reverse="1", resume=index["next"])
    back = rows(visitor, "flights", limit=9, index="by_plane", reverse="1", before=page["previous"])
    assert back["found"] == index["found"] != page["found"]
    words = visitor.get(f"{DB}/tables/flights?limit=7&resume={quote(index['next'])}").words
    assert "belongs to another scan" in words
    for limit in ("0", "501", "x", "-1"):
        assert visitor.get(f"{DB}/tables/airports?limit={limit}").status == 400
        assert visitor.get(f"{DB}/log?limit={limit}").status == 400


def test_columns_that_begin_an_order_lead_to_it_and_turn_it_round(visitor: Visitor) -> None:
    page = visitor.get(f"{DB}/tables/flights?q=month+%3E+0").text
    ways = re.findall(r'<th scope="col"[^>]*?(?:\s+aria-sort="(\w+)")?>\s*<a href="([^"]*)"[^>]*>(\w+)', page)
    assert [(name, way) for way, _, name in ways] == [("year", "ascending"), ("origin", ""), ("tailnum", "")]
    by_route = html.unescape(ways[1][1])
    assert by_route == f"{DB}/tables/flights?q=month+%3E+0&index=by_route"
    found = " ".join(visitor.get(by_route).text.split())
    assert f'aria-sort="ascending"> <a href="{html.escape(f"{by_route}&reverse=1")}"' in found


def test_rows_are_filtered_by_fields_key_and_index(visitor: Visitor, flights: EmbeddedDatabase) -> None:
    every: list[Any] = list(flights.scan(FLIGHTS))
    row = every[len(every) // 2]
    cases: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
        (f"year = {row.year} and month = {row.month}", "", lambda one: one.month == row.month),
        (f"origin = {row.origin} and dest = {row.dest}", "by_route", lambda one: one.dest == row.dest),
        (
            "dep_delay >= 0 and arr_delay != unset",
            "",
            lambda one: one.dep_delay >= 0 and one.HasField("arr_delay"),
        ),
        (f'tailnum ~ "{row.tailnum[1:].lower()}"', "", lambda one: row.tailnum[1:] in one.tailnum),
        ("dep_time = unset", "", lambda one: not one.HasField("dep_time")),
    )
    for query, index, expected in cases:
        found, resume = list[dict[str, object]](), ""
        while True:
            page = rows(visitor, "flights", q=query, index=index, resume=resume)
            assert page["problem"] == ""
            found += page["found"]
            resume = str(page["next"])
            if not resume:
                break
        assert {one["flight"] for one in found} <= {one.flight for one in every if expected(one)}
        if "origin" not in query:
            assert len(found) == sum(map(expected, every)), query


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("origin", "for year, found 'origin'"),
        ("origin JFK", "or write a condition"),
        ("origin = JFK or dest = LAX", "expected `and`"),
        ("nowhere = 1", "there is no field 'nowhere'; the fields are: year"),
        ("year = soon", "expected"),
        ("year < unset", "expected year = unset"),
        ('origin = "JFK', "expected"),
        (" and ".join(["year = 1"] * 21), "at most 20 conditions"),
    ],
)
def test_an_invalid_filter_is_explained_beside_it(visitor: Visitor, query: str, words: str) -> None:
    page = visitor.get(f"{DB}/tables/flights?{urlencode({'q': query})}")
    assert page.status == 200
    assert words in page.words
    assert "aria-invalid" in page.text


def test_a_condition_is_added_to_a_filter_with_a_form(visitor: Visitor) -> None:
    strange = 'a "b" \\c'
    for start, condition, joined in (
        ("", ("carrier", "=", "B6"), "carrier = B6"),
        ("", ("", "~", "b6"), "~ b6"),
        ("2013/1", ("tailnum", "= unset", ""), "year = 2013 and month = 1 and tailnum = unset"),
        ("~ b6", ("dest", "!=", strange), '~ b6 and dest != "a \\"b\\" \\\\c"'),
        ("month = 1", ("dest", "=", "unset"), 'month = 1 and dest = "unset"'),
        ("month = 1", ("dest", "=", ""), 'month = 1 and dest = ""'),
    ):
        query = dict(zip(("field", "op", "value"), condition, strict=True))
        page = visitor.get(f"{DB}/tables/flights?{urlencode({'q': start, 'resume': 'x', **query})}")
        assert page.status == 200
        assert f'value="{html.escape(joined).replace("&quot;", "&#34;")}"' in page.text
        assert "aria-invalid" not in page.text
    for query, words in (
        ({"field": "", "op": "=", "value": "1"}, "choose the field of which `=` is a condition"),
        ({"field": "month", "op": "like", "value": "1"}, "expected one of ~, =,"),
        ({"field": "month", "op": "<", "value": "soon"}, "for month, found &#39;soon&#39;"),
    ):
        page = visitor.get(f"{DB}/tables/flights?{urlencode(query)}")
        assert (page.status, words in page.text) == (200, True), words


def test_all_fields_are_searched_and_a_key_that_is_not_found_leads_there(
    visitor: Visitor, flights: EmbeddedDatabase
) -> None:
    found = rows(visitor, "airports", q="~ SEC and faa = ZZZ")["found"]
    assert found == []
    (found,) = rows(visitor, "airports", q="~ THIR and alt < 0")["found"]
    assert found["faa"] == "ZZZ"
    page = visitor.get(f"{DB}/tables/airports?q=third")
    assert "Search all fields for “third”" in page.words
    assert "q=~+third" in page.text
    assert "Search all fields" not in visitor.get(f"{DB}/tables/airports?q=faa+%3D+X").words


def test_a_value_of_a_row_leads_to_the_rows_that_have_it(visitor: Visitor) -> None:
    page = visitor.get(f"{DB}/tables/airports?k=ZZZ&q=lat+>+1").text
    links = [html.unescape(one) for one in re.findall(r'class="same" href="([^"]*)"', page)]
    assert len(links) > 5
    for link in links:
        answer = visitor.get(link)
        assert "aria-invalid" not in answer.text, link
        assert 'aria-label="Row ZZZ"' in answer.text, link


def test_the_most_frequent_values_of_a_field_lead_to_their_rows(
    visitor: Visitor, flights: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_, "READ_S", 60)
    every: list[Any] = list(flights.scan(FLIGHTS))
    for name, query in (("carrier", ""), ("dep_time", ""), ("dest", "origin = JFK"), ("tailnum", "")):
        counted = [one for one in every if not query or one.origin == "JFK"]
        expected = Counter(
            getattr(one, name) if name in {"carrier", "dest"} or one.HasField(name) else None
            for one in counted
        )
        found = rows(visitor, "flights", facet=name, q=query)["facet"]
        assert (found["rows"], found["read"], found["whole"]) == (len(counted), len(every), True)
        assert found["distinct"] == len(expected)
        numbers = [one["count"] for one in found["values"]]
        assert numbers == sorted(expected.values(), reverse=True)[:20]
        for one in found["values"][:5]:
            page = visitor.json(one["href"])
            assert expected[page["found"][0].get(name)] == one["count"], one
    form = visitor.get(f"{DB}/tables/flights?field=carrier&op=%3D&value=x&facet=1", follow=False)
    assert form.headers["location"] == f"{DB}/tables/flights?facet=carrier"
    monkeypatch.setattr(rows_, "READ_MAX", 30)
    assert "Values of carrier of the first 30 rows" in visitor.get(form.headers["location"]).words
    for bad, words in (("1&field=", "choose the field whose values"), ("x", "there is no field 'x'")):
        assert words in visitor.get(f"{DB}/tables/flights?facet={bad}").words


def test_the_past_is_one_link_away_as_far_as_the_log_reaches(visitor: Visitor) -> None:
    now = 10**18
    assert asof.ago(now - 60 * 10**9, now) == []
    assert asof.ago(now - 2 * 86_400 * 10**9, now) == ["1 h ago", "1 d ago"]
    for text, seconds in asof.AGO:
        assert time_ns_of(text, zone=None, now_ns=now) == now - seconds * 10**9
    assert "1 h ago" not in visitor.get(f"{DB}/tables/airports").words


def test_the_past_of_a_table_is_counted_and_sorted_only_on_request(
    visitor: Visitor, flights: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, count = flights.head - 1, flights.at(seq=flights.head - 1).count(AIRPORTS)
    assert rows(visitor, "airports", at=at)["rows"] is None
    assert "Count" in visitor.get(f"{DB}/tables/airports?at={at}").words
    assert rows(visitor, "airports", at=at, count=1)["rows"] == count
    assert len(rows(visitor, "airlines", at=at, index="by_name")["found"]) > 1
    monkeypatch.setattr(rows_, "PAST_SORTED_MAX", 3)
    refused = rows(visitor, "airlines", at=at, index="by_name")
    assert refused["found"] == []
    assert "the past has no indexes: the order of by_name would sort all" in str(refused["problem"])
    assert rows(visitor, "airlines", index="by_name")["problem"] == ""


def test_rows_are_found_by_values_of_their_key_or_of_an_index(
    visitor: Visitor, flights: EmbeddedDatabase
) -> None:
    every: list[Any] = list(flights.scan(FLIGHTS))
    row = every[len(every) // 2]
    key = (row.year, row.month, row.day, row.carrier, row.flight, row.origin)
    (found,) = rows(visitor, "flights", q="/".join(map(str, key)))["found"]
    assert (found["flight"], found["origin"]) == (row.flight, row.origin)
    assert rows(visitor, "flights", q=f"{row.year} / {row.month}")["rows_read"] == min(
        50, sum((one.year, one.month) == key[:2] for one in every)
    )
    route = rows(visitor, "flights", q=f"{row.origin}/{row.dest}", index="by_route")["found"]
    assert {(one["origin"], one["dest"]) for one in route} == {(row.origin, row.dest)}
    with flights.transaction(reason="slash") as tx:
        tx.put(AIRPORTS, Airport(faa='a/"b"', name="n"))
    assert [one["faa"] for one in rows(visitor, "airports", q='"a/\\"b\\""')["found"]] == ['a/"b"']
    assert rows(visitor, "airports", q="a/b/c")["problem"].startswith("expected the first values of faa")


def test_a_table_is_shown_as_of_a_commit_and_a_time(visitor: Visitor, flights: EmbeddedDatabase) -> None:
    head = flights.head
    for seq, name in ((head - 2, "first"), (head - 1, "second"), (head, "third")):
        (found,) = rows(visitor, "airports", q="faa = ZZZ", at=seq)["found"]
        assert found["name"] == name
    assert "As of commit" in visitor.get(f"{DB}/tables/airports?at={head - 1}").words
    by_number = visitor.get(f"{DB}/tables/airports?time={head - 1}", follow=False)
    assert by_number.headers["location"] == f"{DB}/tables/airports?at={head - 1}"
    entries = {one.seq: one for one in flights.past.log()}
    by_time = visitor.get(
        f"{DB}/tables/airports?{urlencode({'ms': entries[head - 1].time_ns // 10**6 + 1})}", follow=False
    )
    assert by_time.status == 303
    assert visitor.get(f"{DB}/tables/airports?at=2").status in {200, 404}
    gone = visitor.get(f"{DB}/tables/flights?at=2")
    assert gone.status == 404
    assert "There was no table flights at commit 2" in gone.words
    for query, status in (
        ("at=99999", 404),
        ("at=x", 400),
        ("at=-1", 400),
        ("time=some+day", 400),
        ("time=1999-01-01", 404),
        ("time=2999-01-01", 404),
    ):
        assert visitor.get(f"{DB}/tables/airports?{query}").status == status, query


def test_a_row_has_its_history_as_diffs(visitor: Visitor, flights: EmbeddedDatabase) -> None:
    path = f"{DB}/tables/airports/row?k=ZZZ"
    found = visitor.json(path)
    assert found["row"]["name"] == "third"
    assert [(one["actor"], one["fields"]) for one in found["history"]] == [
        ("ann", ["name"]),
        ("bob", ["name"]),
        ("ann", ["faa", "name", "lat", "alt"]),
    ]
    page = visitor.get(path).words
    assert "bob changed 1 field" in page
    assert "“the second name” name first → second" in page
    past = visitor.json(f"{path}&at={flights.head - 2}")
    assert past["row"]["name"] == "first"
    with flights.transaction(actor="ann", reason="it was closed") as tx:
        tx.delete(AIRPORTS, "ZZZ")
    page = visitor.get(path).words
    assert "deleted it" in page
    assert "The row does not exist" in page
    assert visitor.get(f"{path}&versions=1").words.count("Show more") == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/tables/nowhere", 404),
        ("/tables/airports/row?k=nobody", 404),
        ("/tables/airports/row", 400),
        ("/tables/airports/row?k=a&k=b", 400),
        ("/tables/flights/row?k=x&k=1&k=1&k=UA&k=1&k=JFK", 400),
        ("/tables/airports?resume=x", 200),
        ("/tables/airports?resume=////", 200),
        ("/tables/airports?index=nowhere", 404),
        ("/log/0", 404),
        ("/log/999999", 404),
        ("/log/x", 404),
        ("/log?kind=nothing", 400),
        ("/log?key=ZZZ", 400),
        ("/log?until=0", 400),
        ("/log?table=nowhere", 200),
        ("/log?since=soon", 200),
        (f"/log?actor={'x' * 70_000}", 400),
    ],
)
def test_bad_addresses_are_answered_with_a_sentence(visitor: Visitor, path: str, status: int) -> None:
    answer = visitor.get(f"{DB}{path}")
    assert answer.status == status, answer.words[-300:]
    assert "fault" not in answer.words


def test_names_and_values_of_every_character_are_escaped(visitor: Visitor, flights: EmbeddedDatabase) -> None:
    with flights.transaction(actor=STRANGE[:60], reason=STRANGE, correlation_id="c") as tx:
        tx.put(AIRPORTS, Airport(faa=STRANGE, name=STRANGE * 50))
    for path in (
        f"{DB}/tables/airports?{urlencode({'q': f'faa = {json.dumps(STRANGE)[:40]}'})}",
        f"{DB}/tables/airports?reverse=1",
        f"{DB}/tables/airports/row?k={quote(STRANGE, safe='')}",
        f"{DB}/log",
        f"{DB}/log/{flights.head}",
        f"{DB}/log?{urlencode({'actor': STRANGE, 'key': STRANGE, 'table': STRANGE})}",
        f"/nowhere/{quote(STRANGE, safe='')}",
    ):
        page = visitor.get(path)
        assert "<script>alert" not in page.text, path
        assert 'onerror="' not in page.text
    assert visitor.json(f"{DB}/tables/airports/row?k={quote(STRANGE, safe='')}")["row"]["faa"] == STRANGE


def test_the_log_is_shown_newest_first_and_filtered(visitor: Visitor, flights: EmbeddedDatabase) -> None:
    entries = list(flights.past.log())
    found = visitor.json(f"{DB}/log")
    assert [one["seq"] for one in found["commits"]] == [one.seq for one in entries[::-1][:50]]
    older = visitor.json(f"{DB}/log?until=3")
    assert [one["seq"] for one in older["commits"]] == [3, 2, 1]
    for query, matches in (
        ({"actor": "bob"}, lambda one: one.actor == "bob"),
        ({"kind": "migration"}, lambda one: one.kind == "migration"),
        ({"correlation": "c-third"}, lambda one: one.correlation_id == "c-third"),
        ({"table": "airports", "actor": "ann"}, lambda one: one.actor == "ann"),
        ({"key": "airports/ZZZ"}, lambda one: any(c.key == ("ZZZ",) for c in one.changes)),
    ):
        commits = visitor.json(f"{DB}/log?{urlencode(query)}")["commits"]
        assert [one["seq"] for one in commits] == [one.seq for one in entries[::-1] if matches(one)], query
    assert "No commit matches" in visitor.get(f"{DB}/log?actor=nobody").words


@pytest.mark.parametrize("query", [{}, {"table": "airports"}, {"key": "airports/ZZZ"}])
def test_newer_commits_are_one_page_away(
    visitor: Visitor, flights: EmbeddedDatabase, query: dict[str, str]
) -> None:
    for number in range(9):
        flights.put(AIRPORTS, Airport(faa="ZZZ", name=f"n{number}"), reason="again")

    def page(**position: int) -> tuple[list[int], str, str]:
        path = f"{DB}/log?{urlencode({'limit': 4, **query, **position})}"
        text = visitor.get(path).text
        links = {name: re.search(rf'href="([^"]*)" rel="{name}"', text) for name in ("prev", "next")}
        newer, older = (html.unescape(link[1]) if link else "" for link in links.values())
        return [one["seq"] for one in visitor.json(path)["commits"]], newer, older

    newest, none, older = page()
    second, newer, _ = page(until=int(older.partition("until=")[2]))
    assert (none, len(newest), len(second)) == ("", 4, 4)
    assert page(after=int(newer.partition("after=")[2])) == (newest, "", older)
    first, newer, _ = page(after=second[0] - 8)
    assert newer
    assert first == [one.seq for one in flights.past.log(after=second[0] - 8, limit=4)][::-1]
    assert page(after=10**9)[0] == newest


def test_a_commit_is_shown_with_its_rows_before_and_after(
    visitor: Visitor, flights: EmbeddedDatabase
) -> None:
    page = visitor.get(f"{DB}/log/{flights.head}").words
    assert "“the third name”" in page
    assert "name second → third" in page
    found = visitor.json(f"{DB}/log/{flights.head}")
    assert found["changes"][0]["row"]["name"] == "third"
    assert found["correlation_id"] == "c-third"
    for seq in range(1, flights.head + 1):
        assert visitor.get(f"{DB}/log/{seq}").status == 200


def test_new_commits_are_streamed_as_events(visitor: Visitor, flights: EmbeddedDatabase) -> None:
    host = visitor.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request("GET", f"{DB}/log/events?actor=ann")
    response = connection.getresponse()
    assert response.getheader("Content-Type", "").startswith("text/event-stream")
    assert response.readline() == b"retry: 1000\n"
    with flights.transaction(actor="bob", reason="not hers") as tx:
        tx.put(AIRPORTS, Airport(faa="YYY"))
    with flights.transaction(actor="ann", reason="live <b>") as tx:
        tx.put(AIRPORTS, Airport(faa="XXX"))
    lines = list[str]()
    while not any("live &lt;b&gt;" in line for line in lines):
        lines.append(response.readline().decode())
    assert f"id: {flights.head}\n" in lines
    assert "event: commit\n" in lines
    assert not any("not hers" in line for line in lines)
    connection.close()


def test_who_may_not_see_a_database_or_a_table_learns_nothing(flights: EmbeddedDatabase) -> None:
    flights.access.grant("carl", "reader", ("airports",), actor="ann", reason="a part")
    with console_of({"flights": flights}, tokens=TOKENS) as web:
        carl = Visitor(web.url)
        assert carl.sign_in(TOKENS["carl"]).status == 303
        assert [one["name"] for one in carl.json(f"{DB}/tables")["tables"]] == ["airports"]
        assert carl.get(f"{DB}/tables/airports").status == 200
        for path in (f"{DB}/tables/flights", "/db/nowhere/tables", f"{DB}/log?table=flights"):
            answer = carl.get(path)
            assert answer.status in {403, 404} or "flights" not in answer.words.partition("every table")[2]
        assert carl.get("/").status == 200
        assert carl.get(f"{DB}/log").status == 200


def test_resume_tokens_of_other_scans_are_refused(visitor: Visitor) -> None:
    token = base64.urlsafe_b64encode(b"\xff" * 40).decode()
    assert "resume token belongs to another scan" in visitor.get(f"{DB}/tables/airports?resume={token}").words


def test_a_database_without_migrations_and_an_empty_table_say_what_to_do() -> None:
    with at_version(20260105093000, source="flights.migrations") as db:
        assert isinstance(db, EmbeddedDatabase)
        with console_of({"flights": db}) as web:
            visitor = Visitor(web.url)
            assert visitor.get(f"{DB}/tables").status == 200
            airports = table_of(db.schema.table("airports"))
            with db.transaction(reason="all") as tx:
                for row in list(db.scan(airports)):
                    tx.delete(airports, cast(Any, row).faa)
            assert "No rows" in visitor.get(f"{DB}/tables/airports").words


def test_what_a_page_shows_is_saved_as_a_file(visitor: Visitor, flights: EmbeddedDatabase) -> None:
    every: list[Any] = list(flights.scan(FLIGHTS))
    row = every[len(every) // 2]
    query = {"q": f"origin = {row.origin} and dest = {row.dest}", "index": "by_route", "reverse": "1"}
    expected = list(flights.scan(FLIGHTS.by_route, (row.origin, row.dest), reverse=True))
    assert len(expected) < len(every)
    page = visitor.get(f"{DB}/tables/flights?{urlencode(query)}")
    links = [html.unescape(one) for one in re.findall(r'<a href="([^"]*)" download', page.text)]
    assert len(links) == 3
    for link, read in zip(links, (read_csv, read_jsonl), strict=False):
        answer = visitor.get(link)
        form = link.partition("format=")[2].partition("&")[0]
        assert answer.headers["content-disposition"] == f'attachment; filename="flights.{form}"'
        assert list(read(io.BytesIO(answer.text.encode()), Flight)) == expected
    path = f"{DB}/tables/airports/export?format=jsonl"
    past = [json.loads(line) for line in visitor.get(f"{path}&at={flights.head - 2}").text.splitlines()]
    assert {one["faa"]: one["name"] for one in past}["ZZZ"] == "first"
    assert len(visitor.get(path).text.splitlines()) == flights.count(AIRPORTS)
    for query_, status in (("format=xml", 400), ("format=csv&q=x+%3D", 400), ("format=csv&at=99999", 404)):
        assert visitor.get(f"{DB}/tables/airports/export?{query_}").status == status
    assert visitor.get(f"{DB}/tables/nowhere/export?format=csv").status == 404


def test_columns_are_chosen_for_the_page_and_its_files(visitor: Visitor) -> None:
    query = "q=ZZZ&column=alt&column=name"
    page = visitor.get(f"{DB}/tables/airports?{query}")
    assert re.findall(r'<th scope="col"[^>]*>\s*(?:<a[^>]*>)?(\w+)', page.text) == ["faa", "alt", "name"]
    assert "2 of 8 fields" in page.words
    assert rows(visitor, "airports", q="ZZZ", column="alt")["found"] == [{"faa": "ZZZ", "alt": -3}]
    csv, *_ = (html.unescape(one) for one in re.findall(r'<a href="([^"]*)" download', page.text))
    assert visitor.get(csv).text == "alt,name\n-3,third\n"
    path = f"{DB}/tables/airports/export?{query}"
    assert visitor.get(f"{path}&format=jsonl").text == '{"alt":-3,"name":"third"}\n'
    assert visitor.get(f"{path}&format=parquet").status == 200
    for bad in (f"{DB}/tables/airports?column=nothing", f"{path}&format=csv&column=nothing"):
        assert "there is no field 'nothing'; the fields are: faa, " in visitor.get(bad).words


def test_a_file_that_cannot_be_completed_breaks_its_connection(
    visitor: Visitor, flights: EmbeddedDatabase
) -> None:
    with flights.transaction(reason="many") as tx:
        for number in range(2000):
            tx.put(AIRPORTS, Airport(faa=f"X{number:04}", name="x" * 100, tzone="Europe/London"))
        tx.put(AIRPORTS, Airport(faa="Y", tzone=""))
    path = f"{DB}/tables/airports/export?format=csv"
    assert visitor.get(path).text.splitlines()[-1].startswith("ZZZ,third")
    with pytest.raises(http.client.IncompleteRead):
        visitor.get(f"{path}&null=")
    assert visitor.get(f"{path}&null=NA").text.splitlines()[-1] == "ZZZ,third,1.5,0.0,-3,0,,NA"


def test_an_export_reads_rows_as_pieces_are_taken() -> None:
    for form in ("csv", "jsonl"):
        taken = list[int]()

        def rows(taken: list[int] = taken) -> Iterator[Any]:
            for number in range(1_000_000):
                taken.append(number)
                yield Airport(faa=f"{number}", name="x" * 100)

        pieces = exported(rows(), form, Airport)
        sizes = [len(next(pieces)) for _ in range(3)]
        pieces.close()
        assert len(taken) < 5000
        assert all(size < 100_000 for size in sizes)


def test_rows_that_cannot_be_shown_say_why_where_they_would_be(tmp_path: Path) -> None:
    path = tmp_path / "clinic.db"
    with EmbeddedDatabase(path, master_key=MASTER) as db:
        declare(db, PATIENTS)
        for id in (1, 2):
            db.put(PATIENTS, patient(id, f"s-{id}", name="secret"))
        db.put(PATIENTS, patient(2, "s-2", name="secret", born=1990))
        db.people.forget(PATIENTS, 1, reason="asked")
        with console_of({"clinic": db}) as web:
            visitor = Visitor(web.url)
            assert (
                "Erased: its person was forgotten" in visitor.get("/db/clinic/tables/patients/row?k=1").words
            )
            assert "erased: its person was forgotten" in visitor.get("/db/clinic/log/3").words
            assert visitor.get("/db/clinic/tables/patients/row/edit?k=2").status == 200
    with EmbeddedDatabase(path) as db, console_of({"clinic": db}) as web:
        visitor = Visitor(web.url)
        for page, words in (
            ("tables/patients", "These rows cannot be shown"),
            ("tables/patients?k=2", "are sealed"),
            ("tables/patients/row?k=2", "This row cannot be shown"),
            ("tables/patients/row?k=2", "Sealed: its key is not available to this server."),
            ("log/4", "sealed: its key is not available here"),
            ("log", "put patients"),
        ):
            answer = visitor.get(f"/db/clinic/{page}")
            assert answer.status == 200, page
            assert words in answer.words, (page, answer.words[-600:])
            assert "secret" not in answer.text
        refused = visitor.get("/db/clinic/tables/patients/row/edit?k=2")
        assert refused.status in {409, 500}
        assert "are sealed" in refused.words
