"""The pages of methods: lists, forms, calls and streams, made from the descriptors of the server."""

from __future__ import annotations

import contextlib
import html
import http.client
import json
import re
from collections.abc import Iterator
from urllib.parse import urlencode, urlsplit

import pytest

from everlog.console.web import api as pages
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from tests.console.web.conftest import ROLES, TOKENS
from tests.console.web.visitor import Answer, Visitor, console_of
from tests.rpc.added import weather


@pytest.fixture
def ann(flights: EmbeddedDatabase) -> Iterator[Visitor]:
    """Yield the owner, at a server with a service that no line of everlog knows."""
    with console_of({"flights": flights}, tokens=TOKENS, roles=ROLES, services=[weather()]) as web:
        visitor = Visitor(web.url)
        visitor.sign_in(TOKENS["ann"])
        yield visitor


@pytest.fixture
def bob(ann: Visitor) -> Visitor:
    """Return a reader of the same server."""
    visitor = Visitor(ann.url)
    visitor.sign_in(TOKENS["bob"])
    return visitor


def send(visitor: Visitor, path: str, headers: dict[str, str] | None = None, **fields: str) -> Answer:
    """Open the form of a method, and send it. `__` stands for a dot."""
    visitor.get(path)
    return visitor.post(path, headers, **{name.replace("__", "."): value for name, value in fields.items()})


def shown(answer: Answer) -> list[str]:
    """Return the responses on a page, on several lines each."""
    return [html.unescape(found) for found in re.findall(r"<pre[^>]*>(\{.*?)</pre>", answer.text, re.DOTALL)]


def lines(answer: Answer) -> list[str]:
    """Return the lines for a shell."""
    return [
        html.unescape(found) for found in re.findall(r'<pre class="code line"[^>]*>(.*?)</pre>', answer.text)
    ]


SCRIPTED = {"HX-Request": "true"}


@contextlib.contextmanager
def stream(visitor: Visitor, path: str) -> Iterator[http.client.HTTPResponse]:
    """Read a stream of events as a browser does, and leave it."""
    parts = urlsplit(visitor.url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    with contextlib.closing(connection):
        cookies = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
        connection.request("GET", path, headers={"Cookie": cookies, "Accept": "text/event-stream"})
        yield connection.getresponse()


def event(response: http.client.HTTPResponse) -> tuple[str, str]:
    """Return the kind and the data of the next event."""
    kind, data = "", []
    while line := response.readline().decode():
        if line.startswith("event: "):
            kind = line[7:-1]
        elif line.startswith("data: "):
            data.append(line[6:-1])
        elif line == "\n" and kind:
            return kind, "\n".join(data)
    raise AssertionError("the stream ended")


def events_of(answer: Answer) -> str:
    found = re.search(r'sse-connect="([^"]+)"', answer.text)
    assert found, answer.text
    return found[1]


def test_the_list_has_what_the_identity_may_call_and_new_services(ann: Visitor, bob: Visitor) -> None:
    words = ann.get("/api").words
    assert "Forecasts the weather of a place" in words
    assert "What it is like outside" in words
    assert "Validates a transaction" in words
    names = {
        f"{service['name']}/{method['name']}"
        for service in bob.json("/api.json")["services"]
        for method in service["methods"]
    }
    assert {"Store/Scan", "Weather/Forecast", "Access/WhoAmI"} <= names
    assert not names & {"Store/Commit", "Access/Grant", "Weather/Change"}
    assert "Validates a transaction" not in bob.get("/api").words


def test_a_form_has_an_input_for_each_field_and_escapes_every_word(ann: Visitor) -> None:
    answer = ann.get("/api/Weather/Forecast?place.name=%3Cb%3E%22x&kinds=SUNNY")
    assert "<b>" not in answer.text
    assert "Where, &lt;b&gt;with&lt;/b&gt; &#34;every&#34; &amp; character." in answer.text
    assert 'value="&lt;b&gt;&#34;x"' in answer.text
    for name in ("place.name", "place.height", "place.near", "kinds", "weights", "at", "celsius", "places"):
        assert f' name="{name}"' in answer.text, name
    assert '<select id="f-celsius" name="celsius">' in answer.text
    assert "A second sentence." in answer.words
    twin = ann.json("/api/Weather/Forecast.json")
    assert twin["service"] == "added.v1.Weather"
    assert [one["name"] for one in twin["fields"]][:4] == ["database", "place", "place.name", "place.height"]
    assert ann.get("/api/Weather/Nothing").status == 404
    assert "did you mean Forecast" in ann.get("/api/Weather/Forcast").words
    assert ann.get("/api/Nothing/Nothing").status == 404


def test_a_call_shows_its_response_and_the_lines_of_the_same_call(ann: Visitor) -> None:
    answer = send(
        ann,
        "/api/Weather/Forecast",
        place__name="it's <i>",
        kinds="SUNNY\nRAINY\n",
        weights="n=1.5",
        wait_ms="2s",
    )
    assert answer.status == 200
    found = json.loads(shown(answer)[0])
    assert found["sky"] == "blue over it's <i>"
    assert found["request"]["kinds"] == ["SUNNY", "RAINY"]
    assert (found["request"]["weights"], found["request"]["wait_ms"]) == ({"n": 1.5}, 2000)
    assert "<i>" not in answer.text
    ours, theirs = lines(answer)
    assert ours.startswith("everlog -u everlog+insecure://127.0.0.1:")
    assert "api Weather Forecast" in ours
    assert "--kinds=SUNNY --kinds=RAINY --weights=n=1.5 --wait-ms=2s" in ours
    assert theirs.startswith('grpcurl -plaintext -H "authorization: Bearer $EVERLOG_TOKEN" -d ')
    assert TOKENS["ann"] not in answer.text
    found = json.loads(shown(send(ann, "/api/Store/Get", table="airports", key="JFK"))[0])
    assert found["row"]["row"]["faa"] == "JFK"
    found = json.loads(shown(send(ann, "/api/Store/Count", _json='{"table": "airports"}'))[0])
    assert int(found["count"]) > 0
    twin = ann.post("/api/Store/Count", {"Accept": "application/json"}, table="airports")
    assert twin.json["responses"][0]["count"] == found["count"]


@pytest.mark.parametrize(
    ("path", "fields", "status", "says"),
    [
        ("/api/Store/Scan", {"table": "airports", "limit": "many"}, 400, "expected a uint64 for limit"),
        ("/api/Store/Get", {"table": "nowhere", "key": "JFK"}, 404, "there is no table 'nowhere'"),
        ("/api/Store/Get", {"_json": "{"}, 400, "expected a JSON object in the JSON"),
        ("/api/Store/Get", {"_json": '{"tabel": "x"}'}, 400, "did you mean table"),
        ("/api/Store/Get", {"_json": '{"table": "x"}', "table": "x"}, 400, "expected table once"),
        (
            "/api/Weather/Forecast",
            {"celsius": "true", "factor": "2"},
            400,
            "expected one of celsius and factor",
        ),
        ("/api/Weather/Forecast", {"place.near": "[]"}, 400, "expected a JSON object in place.near"),
        ("/api/Archive/Release", {"name": "x"}, 400, "it needs a reason"),
    ],
)
def test_what_is_wrong_is_said_on_the_form_which_keeps_what_was_typed(
    ann: Visitor, path: str, fields: dict[str, str], status: int, says: str
) -> None:
    answer = send(ann, path, None, **fields)
    assert (answer.status, answer.headers["content-type"][:9]) == (status, "text/html")
    assert says in answer.words
    for value in fields.values():
        assert html.escape(value, quote=True).replace("&quot;", "&#34;") in answer.text


def test_what_the_identity_may_not_call_is_refused(bob: Visitor) -> None:
    page = bob.get("/api/Weather/Change")
    assert page.status == 403
    assert "may not call this method: it needs admin" in page.words
    answer = send(bob, "/api/Weather/Change", reason="why")
    assert answer.status == 403
    assert "bob lacks the right admin" in answer.words
    assert "bob lacks the right grant" in send(bob, "/api/Access/Grant", reason="why").words


def test_a_call_needs_the_token_of_its_form(ann: Visitor) -> None:
    ann.get("/api/Store/Count")
    ann.csrf = "0" * 64
    assert ann.post("/api/Store/Count", table="airports").status == 403
    assert ann.get("/api/Store/Count?table=airports").words.count('"count"') == 0
    stranger = Visitor(ann.url)
    assert stranger.get("/api/Store/Count").words.startswith("Sign in")


def test_a_field_that_is_required_says_so(ann: Visitor) -> None:
    text = ann.get("/api/Archive/Release").text
    assert re.search(r'name="reason"[^>]* required', text)
    assert "cannot be undone" in text


def test_without_scripts_the_first_responses_of_a_stream_are_shown_and_a_button_for_more(
    ann: Visitor,
) -> None:
    answer = send(ann, "/api/Weather/Observe", place__name='a"<b>', count="45")
    assert len(shown(answer)) == pages.FIRST
    assert "Shown are the first 20." in answer.words
    assert "Show up to 200" in answer.words
    assert (
        '<textarea hidden name="place.name" aria-label="place.name">\na&#34;&lt;b&gt;</textarea>'
        in answer.text
    )
    answer = send(ann, "/api/Weather/Observe", place__name="x", count="45", _count="200")
    assert len(shown(answer)) == 45
    assert "Show up to" not in answer.words
    twin = ann.post("/api/Weather/Observe", {"Accept": "application/json"}, count="45").json
    assert (len(twin["responses"]), twin["more"]) == (20, True)


def test_a_stream_without_an_end_is_shown_as_far_as_it_came(
    ann: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = 0
    for seconds in (0.5, 5.0, 30.0):  # a slow machine needs more for the first one
        monkeypatch.setattr(pages, "FIRST_S", seconds)
        answer = send(ann, "/api/Weather/Observe", wait_ms="1h")
        assert f"Shown is what came within {seconds:g} s." in answer.words
        if came := len(shown(answer)):
            break
    assert came == 1


def test_requests_of_a_stream_are_lines(ann: Visitor) -> None:
    answer = send(ann, "/api/Weather/Sum", count="1", _lines='{"count": 2}\n\n{"count": 39}')
    assert json.loads(shown(answer)[0])["number"] == 42
    assert lines(answer)[0].startswith("""printf '%s\\n' '{"count": 2}' '' '{"count": 39}' | everlog -u """)
    answer = send(ann, "/api/Weather/Sum", _lines='{"count": 2}\n{"cuont": 39}')
    assert answer.status == 400
    assert "line 2: cuont: ForecastRequest has no such field; did you mean count" in answer.words


def test_with_scripts_a_stream_comes_as_events_once_and_ends_with_its_page(ann: Visitor) -> None:
    path = "/api/Weather/Observe"
    target = events_of(send(ann, path, SCRIPTED, place__name="<b>", count="3", wait_ms="1"))
    with stream(ann, target) as response:
        found = [event(response) for _ in range(5)]
    assert [kind for kind, _ in found] == ["message", "message", "message", "ended", "end"]
    assert "&lt;b&gt;" in found[0][1]
    assert "<b>" not in found[0][1]
    assert "ended after 3 responses" in found[4][1]
    with stream(ann, target) as response:  # a call is made once
        assert "Send the call again." in event(response)[1]
    target = events_of(send(ann, path, SCRIPTED, wait_ms="1"))
    stranger = Visitor(ann.url)
    stranger.sign_in(TOKENS["bob"])
    with stream(stranger, target) as response:
        assert "Send the call again." in event(response)[1]
    with stream(ann, target) as response:  # without an end, until its page is left
        assert [event(response)[0] for _ in range(3)] == ["message"] * 3
    answer = send(ann, path, SCRIPTED, count="many")
    assert answer.status == 200
    assert "expected a uint32 for count" in answer.words
    assert "<html" not in answer.text


def test_a_stream_whose_page_was_left_ends_at_the_server(flights: EmbeddedDatabase) -> None:
    from everlog.console.web.server import WebServer, own_server

    with Server({"flights": flights}, services=[weather()]) as server:
        web = WebServer("127.0.0.1:0")
        web.server = own_server(server.host, server.port, None)
        with web:
            visitor = Visitor(web.url)
            target = events_of(send(visitor, "/api/Weather/Observe", SCRIPTED, wait_ms="1"))
            with stream(visitor, target) as response:
                assert event(response)[0] == "message"
                assert server.activity.running
            while server.activity.running:
                pass
            target = events_of(send(visitor, "/api/Weather/Observe", SCRIPTED))  # as fast as it can
            with stream(visitor, target) as response:
                kinds = [event(response) for _ in range(pages.STREAM_MAX + 2)]
            assert [kinds[-3][0], kinds[-1][0]] == ["message", "end"]
            assert "The first 1,000 responses" in kinds[-1][1]
            while server.activity.running:
                pass


def test_a_large_response_is_cut_and_says_so(ann: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "SHOWN_BYTES_MAX", 1000)
    answer = send(ann, "/api/Weather/Forecast", reason="x" * 5000)
    assert "… cut: 5" in answer.words
    assert "`everlog api` prints them" in answer.words


def test_what_a_page_keeps_of_streams_is_bounded(ann: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "STREAM_BYTES_MAX", 10_000)
    path, name = "/api/Weather/Observe", "x" * 3000
    answer = send(ann, path, place__name=name, _count="1000")
    assert len(shown(answer)) == 4
    assert "Shown are the first 0 MiB; `everlog api` prints all" in answer.words
    with stream(ann, events_of(send(ann, path, SCRIPTED, place__name=name))) as response:
        found = [event(response) for _ in range(6)]
    assert [kind for kind, _ in found[4:]] == ["ended", "end"]
    assert "The first 4 responses" in found[5][1]
    monkeypatch.setattr(pages, "CALLS_BYTES_MAX", 2000)
    assert "streams in this console" in send(ann, path, SCRIPTED, place__name=name).words
    monkeypatch.undo()
    monkeypatch.setattr(pages, "STREAMS_MAX", 0)
    assert send(ann, path, place__name="x", count="1").status == 200
    assert "expected at most 0 streams" in send(ann, path, SCRIPTED, place__name="x").words


def test_a_stream_ends_with_its_session(ann: Visitor) -> None:
    target = events_of(send(ann, "/api/Weather/Observe", SCRIPTED, wait_ms="1h"))
    with stream(ann, target) as response:
        assert event(response)[0] == "message"
        ann.post("/sign-out")
        assert event(response)[0] == "ended"
        assert "Ended." in event(response)[1]


def test_a_list_of_several_databases_has_a_choice(flights: EmbeddedDatabase) -> None:
    with (
        EmbeddedDatabase(flights.path / "other.db") as other,
        console_of({"flights": flights, "other <b>": other}) as web,
    ):
        visitor = Visitor(web.url)
        text = visitor.get(f"/api?{urlencode({'database': 'other <b>'})}").text
        assert "database=other+%3Cb%3E" in text
        assert "other <b>" not in text
        answer = send(visitor, "/api/Store/Describe", database="other <b>")
        assert json.loads(shown(answer)[0])["head"]["seq"] == "1"
