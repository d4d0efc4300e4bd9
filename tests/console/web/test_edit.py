"""Forms of rows: insert, change, delete; somebody who was faster; roles; without scripts."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from everlog import migrations
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.upkeep.roles import Role, Rule
from flights.migrations.v20260209154500_airport_time_zones import (
    AIRLINES,
    AIRPORTS,
    WEATHER,
    Airline,
    Airport,
    Weather,
)
from tests.console.web.checked import FIRST, written
from tests.console.web.conftest import TOKENS
from tests.console.web.test_fields import EVERY
from tests.console.web.visitor import Answer, Visitor, console_of
from tests.migrations.project import Project
from tests.store.documents import DOCUMENTS, Document, open_documents

DB = "/db/flights"
ROW = f"{DB}/tables/airports/row?k=ZZZ"
EDIT, DELETE = ROW.replace("row?", "row/edit?"), ROW.replace("row?", "row/delete?")
NEW = f"{DB}/tables/airports/new"

_INPUT = re.compile(
    r"<input\b([^>]*)>|<textarea\b([^>]*)>(.*?)</textarea>|<select\b([^>]*)>(.*?)</select>", re.DOTALL
)
_OPTION = re.compile(r"<option(?: value=\"([^\"]*)\")?([^>]*)>([^<]*)</option>")


def attribute(text: str, name: str) -> str | None:
    found = re.search(rf'\b{name}="([^"]*)"', text)
    return None if found is None else html.unescape(found[1])


def inputs(page: Answer) -> dict[str, str]:
    """Return what a browser sends for the form of a page."""
    form = page.text[page.text.index('<form method="post"') :]
    form = form[: form.index("</form>")]
    found = dict[str, str]()
    for match in _INPUT.finditer(form):
        attributes = match[1] or match[2] or match[4] or ""
        name = attribute(attributes, "name")
        if name is None:
            continue
        if match[1] is not None:
            is_choice = 'type="checkbox"' in attributes or 'type="radio"' in attributes
            if is_choice and " checked" not in attributes:
                continue
            found[name] = attribute(attributes, "value") or ""
        elif match[2] is not None:
            found[name] = html.unescape(match[3]).removeprefix("\n").replace("\n", "\r\n")
        else:
            options = [
                (v if v or "value=" in a else t, "selected" in more)
                for v, more, t in _OPTION.findall(match[5])
                for a in [match[0]]
            ]
            values = [html.unescape(value) for value, chosen in options if chosen] or [""]
            found[name] = values[0]
    del found["csrf"]
    return found


def send(visitor: Visitor, path: str, page: Answer, **changes: str) -> Answer:
    """Send the form of a page with some inputs changed, by names such as f__name."""
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    return visitor.post(path, None, **{**inputs(page), **changed})


def put(db: EmbeddedDatabase, **fields: Any) -> int:
    with db.transaction(actor="bob", reason="meanwhile") as tx:
        tx.put(
            AIRPORTS,
            Airport(**{"faa": "ZZZ", "name": "first", "lat": 1.5, "tzone": "Europe/London", **fields}),
        )
    return db.head


def get(db: EmbeddedDatabase) -> Any:
    return db.get(AIRPORTS, "ZZZ")


@pytest.fixture
def ann(flights: EmbeddedDatabase, console: Visitor) -> Visitor:
    """Return a visitor who is signed in as an owner; the row ZZZ exists."""
    put(flights)
    assert console.sign_in(TOKENS["ann"]).status == 303
    return console


def test_a_row_is_changed_with_a_reason_by_its_identity(ann: Visitor, flights: EmbeddedDatabase) -> None:
    assert f'href="{html.escape(EDIT)}"' in ann.get(ROW).text
    page = ann.get(EDIT)
    assert "faa ZZZ" in page.words
    answer = send(ann, EDIT, page, f__name="new", f__lat="-2.25", f__tzone="", reason="a sign")
    assert answer.status == 303, answer.words
    saved = ann.get(answer.headers["location"])
    assert f"Saved in commit {flights.head:,}" in saved.words
    row = get(flights)
    assert (row.name, row.lat, row.HasField("tzone")) == ("new", -2.25, False)
    version = next(flights.history(AIRPORTS, "ZZZ"))
    assert (version.actor, version.proof, version.reason) == ("ann", "token", "a sign")
    assert version.fields == ("name", "lat", "tzone")
    (entry,) = flights.past.log(after=flights.head - 1)
    assert entry.client == "console"
    assert send(ann, EDIT, page, f__name="new", f__lat="-2.25", f__tzone="", reason="a sign").status == 303
    assert flights.head == entry.seq, "the same form again is the same commit"


def test_rows_with_a_time_in_their_key_are_shown_and_changed(ann: Visitor, flights: EmbeddedDatabase) -> None:
    time = Timestamp(seconds=1_700_000_000)
    flights.put(WEATHER, Weather(origin="JFK", time_hour=time, temp=1.5))
    assert "EWR" in ann.get(f"{DB}/tables/weather").words
    edit = f"{DB}/tables/weather/row/edit?k=JFK&k=2023-11-14T22:13:20Z"
    answer = send(ann, edit, ann.get(edit), f__temp="2.5", reason="measured again")
    assert answer.status == 303, answer.words
    row = flights.get(WEATHER, ("JFK", time))
    assert row is not None
    assert row.temp == 2.5


def test_what_does_not_fit_is_said_at_the_field_and_the_input_is_kept(
    ann: Visitor, flights: EmbeddedDatabase
) -> None:
    head, page = flights.head, ann.get(EDIT)
    answer = page
    for name, value, words in (
        ("reason", "", "A reason is needed"),
        ("reason", "  ", "A reason is needed"),
        ("f.lat", "north", "found 'north'"),
        ("f.alt", "99999999999", "found '99999999999'"),
        ("f.alt", "", "found nothing"),
    ):
        sent = {**inputs(page), "f.name": "kept <b>", "reason": "kept, too", name: value}
        answer = ann.post(EDIT, None, **sent)
        assert answer.status == 400
        assert words in answer.words
        assert "Nothing was saved: 1 field needs attention." in answer.words
        assert 'aria-invalid="true"' in answer.text
        assert inputs(answer) == {**sent, name: value.strip()}
    assert flights.head == head
    assert send(ann, EDIT, answer, f__lat="1.5", f__alt="3", reason="now").status == 303


def test_a_row_is_changed_back_to_an_earlier_version(ann: Visitor, flights: EmbeddedDatabase) -> None:
    first = next(flights.history(AIRPORTS, "ZZZ"))
    put(flights, name="wrong", alt=9)
    page = ann.get(ROW)
    link = f"{EDIT}&from={first.seq}"
    assert f'href="{html.escape(link)}"' in page.text
    assert page.words.count("change back to it") == 1, "the newest version is the row as it is"
    page = ann.get(link)
    assert f"The fields have the values of commit {first.seq:,}" in page.words
    assert get(flights).name == "wrong", "nothing is changed yet"
    assert send(ann, link, page, reason="").status == 400
    assert send(ann, link, page, reason="a mistake of mine").status == 303
    assert get(flights) == first.row
    assert send(ann, link, page, reason="the same, late").status == 409
    assert ann.get(f"{EDIT}&from={flights.head + 1}").status == 404


def test_a_version_before_a_migration_leaves_the_fields_that_it_lacks(tmp_path: Path) -> None:
    project = Project(tmp_path)
    path = written(project)
    with EmbeddedDatabase(tmp_path / "airports.db") as db:
        migrations.apply(db, path, to=FIRST)
        first = db.head
        migrations.apply(db, path)
        table = migrations.load(path)[-1].tables[0]
        db.put(table, table.model(faa="JFK", name="wrong", city="New York"))
        with console_of({"airports": db}) as web:
            page = Visitor(web.url).get(f"/db/airports/tables/airports/row/edit?k=JFK&from={first}")
    assert "so they keep their values: city" in page.words
    assert (inputs(page)["f.name"], inputs(page)["f.city"]) == ("<i>Kennedy</i>", "New York")


def test_a_row_is_inserted_once_and_deleted(ann: Visitor, flights: EmbeddedDatabase) -> None:
    assert NEW in ann.get(f"{DB}/tables/airports").text
    page = ann.get(NEW)
    answer = send(ann, NEW, page, f__faa="A/B ü", f__name="n", f__lat="1", reason="opened")
    assert answer.status == 303, answer.words
    shown = ann.get(answer.headers["location"])
    assert "A/B ü" in shown.words
    assert "created it" in shown.words
    taken = send(ann, NEW, ann.get(NEW), f__faa="ZZZ", f__name="mine", reason="opened")
    assert taken.status == 409
    assert get(flights).name == "first"
    path = f"{DB}/tables/airports/row/delete?{urlencode({'k': 'A/B ü'})}"
    page = ann.get(path)
    assert "Delete A/B ü" in page.words
    assert send(ann, path, page, reason="").status == 400
    answer = send(ann, path, page, reason="closed")
    assert answer.status == 303
    shown = ann.get(answer.headers["location"])
    assert f"Deleted in commit {flights.head:,}" in shown.words
    assert "Insert again" in shown.words
    version = next(flights.history(AIRPORTS, "A/B ü"))
    assert (version.op, version.actor, version.reason) == ("delete", "ann", "closed")
    again = ann.get(f"{NEW}?{urlencode({'k': 'A/B ü'})}")
    assert (inputs(again)["f.faa"], inputs(again)["f.name"]) == ("A/B ü", "n")


def test_a_value_that_must_be_unique_is_named_at_its_field(ann: Visitor, flights: EmbeddedDatabase) -> None:
    flights.put(AIRLINES, Airline(carrier="ZZ", name="Zed"), reason="new")
    path = f"{DB}/tables/airlines/new"
    answer = send(ann, path, ann.get(path), f__carrier="YY", f__name="Zed", reason="new")
    assert answer.status == 409
    assert "another row has this value already" in answer.words


def test_somebody_who_was_faster_is_shown_beside_and_fields_are_chosen(
    ann: Visitor, flights: EmbeddedDatabase
) -> None:
    page = ann.get(EDIT)
    put(flights, name="theirs", lat=9.0, alt=77)
    answer = send(ann, EDIT, page, f__name="mine", f__lat="2.5", f__tzone="Asia/Tokyo", reason="ours")
    assert answer.status == 409
    assert "bob changed it" in answer.words
    assert "“meanwhile”" in answer.words
    assert re.search(r"name first.* theirs.* mine", answer.words)
    sent = inputs(answer)
    assert {name: value for name, value in sent.items() if name.startswith("c.")} == {
        "c.alt": "theirs",
        "c.tzone": "mine",
    }
    assert get(flights).name == "theirs"
    unanswered = send(ann, EDIT, answer, c__name="mine")
    assert unanswered.status == 409
    assert "Choose a value for each field first" in unanswered.words
    assert (
        inputs(unanswered).items()
        >= {"c.name": "mine", "c.alt": "theirs", "c.tzone": "mine", "reason": "ours"}.items()
    )
    put(flights, name="theirs", lat=9.0, alt=78)
    third = send(ann, EDIT, unanswered, c__lat="theirs")
    assert third.status == 409, "somebody was faster again"
    assert {name for name in inputs(third) if name.startswith("c.")} == {"c.name", "c.alt", "c.tzone"}
    assert send(ann, EDIT, third).status == 303
    row = get(flights)
    assert (row.name, row.lat, row.alt, row.tzone) == ("mine", 9.0, 78, "Asia/Tokyo")
    assert next(flights.history(AIRPORTS, "ZZZ")).reason == "ours"


def test_a_conflict_can_be_taken_back_to_the_form(ann: Visitor, flights: EmbeddedDatabase) -> None:
    page = ann.get(EDIT)
    put(flights, name="theirs")
    answer = send(ann, EDIT, page, f__name="mine", f__alt="5", reason="ours")
    form = send(ann, EDIT, answer, c__name="mine", press="form:")
    assert form.status == 200
    assert (inputs(form)["f.name"], inputs(form)["f.alt"], inputs(form)["reason"]) == ("mine", "5", "ours")
    assert send(ann, EDIT, form, f__name="both").status == 303
    assert get(flights).name == "both"


def test_a_row_that_was_deleted_meanwhile_can_be_inserted_again(
    ann: Visitor, flights: EmbeddedDatabase
) -> None:
    page, deleting = ann.get(EDIT), ann.get(DELETE)
    flights.delete(AIRPORTS, "ZZZ", actor="bob", reason="closed")
    answer = send(ann, EDIT, page, f__name="mine", reason="ours")
    assert answer.status == 409
    assert "bob deleted it" in answer.words
    assert "Insert again" in answer.words
    assert send(ann, DELETE, deleting, reason="closed").status == 303
    assert send(ann, EDIT, answer).status == 303
    assert get(flights).name == "mine"


def test_a_delete_of_a_row_that_was_changed_meanwhile_asks_again(
    ann: Visitor, flights: EmbeddedDatabase
) -> None:
    page = ann.get(DELETE)
    put(flights, name="theirs")
    answer = send(ann, DELETE, page, reason="closed")
    assert answer.status == 409
    assert "name first → theirs" in answer.words
    assert get(flights).name == "theirs"
    assert send(ann, DELETE, answer).status == 303
    assert get(flights) is None


def test_who_may_not_write_sees_no_button_and_is_refused(flights: EmbeddedDatabase) -> None:
    put(flights)
    with console_of(
        {"flights": flights}, tokens=TOKENS, roles={"ann": ("owner",), "bob": ("reader",)}
    ) as web:
        ann, bob = Visitor(web.url), Visitor(web.url)
        ann.sign_in(TOKENS["ann"])
        bob.sign_in(TOKENS["bob"])
        page = ann.get(EDIT)
        for path in (ROW, f"{DB}/tables/airports"):
            assert "/edit" not in bob.get(path).text
            assert "/delete" not in bob.get(path).text
            assert "Insert" not in bob.get(path).words
        for path in (EDIT, DELETE, NEW):
            assert bob.get(path).status == 403, path
        head = flights.head
        assert send(bob, EDIT, page, f__name="bob's", reason="mine").status == 403
        assert send(bob, DELETE, page, reason="mine").status == 403
        assert send(bob, NEW, ann.get(NEW), f__faa="YYY", reason="mine").status == 403
        assert flights.head == head
        assert "row/edit" not in ann.get(f"{ROW}&at={head}").text, "the past cannot be changed"


def test_fields_that_a_role_hides_keep_their_values(flights: EmbeddedDatabase) -> None:
    put(flights, alt=7)
    rule = Rule(("read", "write", "history"), tables=("airports",), hidden=("alt", "tzone"))
    flights.access.define(Role("clerk", (rule,)), actor="ann", reason="part")
    flights.access.grant("carl", "clerk", actor="ann", reason="part")
    with console_of({"flights": flights}, tokens=TOKENS) as web:
        carl = Visitor(web.url)
        carl.sign_in(TOKENS["carl"])
        page = carl.get(EDIT)
        assert page.words.count("hidden from your roles; it keeps its value") == 2
        assert not {"f.alt", "f.tzone"} & inputs(page).keys()
        assert send(carl, EDIT, page, f__name="carl's", reason="a sign").status == 303
        row = get(flights)
        assert (row.name, row.alt, row.tzone) == ("carl's", 7, "Europe/London")
        page = carl.get(EDIT)
        refused = send(carl, EDIT, page, f__alt="9", reason="a sign")
        assert refused.status == 403
        assert "hide the field alt" in refused.words
        page = carl.get(EDIT)
        put(flights, name="carl's", alt=8)
        unseen = send(carl, EDIT, page, f__name="again", reason="a sign")
        assert unseen.status == 409
        assert "8" not in unseen.words.partition("Fields that differ")[2]
        assert send(carl, EDIT, unseen).status == 303
        assert (get(flights).name, get(flights).alt) == ("again", 8)


@pytest.fixture
def papers(tmp_path: Path) -> Iterator[tuple[Visitor, Any]]:
    """Yield a visitor of a database of documents, with every kind of field."""
    with open_documents(tmp_path / "papers.db", DOCUMENTS) as db, console_of({"papers": db}) as web:
        db.put(DOCUMENTS, Document(**EVERY))
        yield Visitor(web.url), db


def test_every_kind_of_field_has_inputs_and_buttons_without_scripts(papers: tuple[Visitor, Any]) -> None:
    visitor, db = papers
    path = "/db/papers/tables/documents/row/edit?k=7"
    page = visitor.get(path)
    head = db.head
    for button in ("add:words", "remove:inners.0", "unset:inner", "set:one_inner", "json:", "inputs:"):
        page = send(visitor, path, page, press=button)
        assert page.status == 200, (button, page.words)
    assert db.head == head
    changes = {
        "f.words.2": "line 1\r\nline 2", "f.one_number": "", "f.one_inner.number": "5", "f.raw": "hex:00ff10",
        "j.took": '"2.5s"', "f.opt_color": "", "f.flag": "true", "reason": "all",
        "f.at": "2026-01-05T09:30:00.5+01:00",
    }  # fmt: skip
    answer = visitor.post(path, None, **{**inputs(page), **changes})
    assert answer.status == 303, answer.words
    row = db.get(DOCUMENTS, 7)
    assert list(row.words) == ["x", "y\nz", "line 1\nline 2"]
    assert [one.text for one in row.inners] == ["two"]
    assert (row.WhichOneof("choice"), row.one_inner.number, row.raw) == ("one_inner", 5, b"\x00\xff\x10")
    assert (row.took.seconds, row.took.nanos, row.flag, row.HasField("opt_color")) == (
        2,
        500_000_000,
        True,
        False,
    )
    assert (row.at.ToJsonString(), row.HasField("inner"), row.HasField("note")) == (
        "2026-01-05T08:30:00.500Z",
        False,
        True,
    )
    bad = send(visitor, path, visitor.get(path), press="add:nowhere")
    assert bad.status == 400


def test_a_row_as_json_can_be_changed_but_not_its_key(papers: tuple[Visitor, Any]) -> None:
    visitor, db = papers
    path = "/db/papers/tables/documents/row/edit?k=7"
    page = send(visitor, path, visitor.get(path), press="json:")
    row = json.loads(inputs(page)["j."])
    for value, status in (
        ({**row, "title": "new"}, 303),
        ({**row, "id": 8}, 400),
        ({**row, "i32": "x"}, 400),
    ):
        answer = visitor.post(path, None, **{**inputs(page), "j.": json.dumps(value), "reason": "as JSON"})
        assert answer.status == status, answer.words
        if status == 303:
            page = send(visitor, path, visitor.get(path), press="json:")
    assert db.get(DOCUMENTS, 7).title == "new"


@pytest.mark.parametrize(
    "text", ["\0", "a\rb", " \n x \n", "<script>alert(1)</script>", "'\"&\u202e", "é\ufeff"]
)
def test_a_text_of_any_characters_is_changed_only_by_its_input(
    papers: tuple[Visitor, Any], text: str
) -> None:
    visitor, db = papers
    db.put(DOCUMENTS, Document(id=9, title=text, text=text, words=[text], by_word={text: text}))
    path = "/db/papers/tables/documents/row/edit?k=9"
    page = visitor.get(path)
    assert "<script>alert" not in page.text
    assert send(visitor, path, page, f__i64="1", reason="one").status == 303
    row = db.get(DOCUMENTS, 9)
    assert (row.title, row.text, list(row.words), dict(row.by_word), row.i64) == (
        text,
        text,
        [text],
        {text: text},
        1,
    )


def test_damaged_forms_are_refused(ann: Visitor, flights: EmbeddedDatabase) -> None:
    page, head = ann.get(EDIT), flights.head
    for name, value in (
        ("version", "x"),
        ("base", "!"),
        ("base", "////"),
        ("id", "00"),
        ("mine", "!"),
        ("expires_ns", "x"),
    ):
        answer = send(ann, EDIT, page, **{name: value}, f__name="x", reason="x")
        assert answer.status == 400, (name, answer.words)
        assert "load the page again" in answer.words
    assert ann.get(EDIT.replace("ZZZ", "nobody")).status == 404
    assert ann.get(NEW.replace("airports", "nowhere")).status == 404
    assert send(ann, EDIT, page, reason="x").status == 400, "nothing is changed"
    assert flights.head == head


def test_an_expiry_is_kept_changed_and_removed(papers: tuple[Visitor, Any]) -> None:
    visitor, db = papers
    path, expires_ns = "/db/papers/tables/documents/row/edit?k=5", (1 << 61) + 7
    db.put(DOCUMENTS, Document(id=5, title="a"), expires=expires_ns)
    assert send(visitor, path, visitor.get(path), f__title="b", reason="kept").status == 303
    assert db.expires_ns(DOCUMENTS, 5) == expires_ns
    for text, words in (("soon", "expected a time"), ("1999-01-01T00:00Z", "expected")):
        answer = send(visitor, path, visitor.get(path), expires=text, reason="wrong")
        assert answer.status == 400
        assert words in answer.words
        assert inputs(answer)["expires"] == text
    answer = send(visitor, path, visitor.get(path), expires="2100-01-01T00:00Z", reason="later")
    assert answer.status == 303
    assert db.expires_ns(DOCUMENTS, 5) == 4_102_444_800 * 10**9
    page = visitor.get(path)
    db.put(DOCUMENTS, Document(id=5, title="theirs"), expires=expires_ns)
    conflict = send(visitor, path, page, f__text="mine", reason="both")
    assert send(visitor, path, conflict).status == 303
    assert db.expires_ns(DOCUMENTS, 5) == expires_ns
    assert send(visitor, path, visitor.get(path), expires="", reason="never").status == 303
    assert db.expires_ns(DOCUMENTS, 5) == 0


def test_fields_of_which_one_can_be_set_are_chosen_together(papers: tuple[Visitor, Any]) -> None:
    visitor, db = papers
    path = "/db/papers/tables/documents/row/edit?k=6"
    db.put(DOCUMENTS, Document(id=6))
    page = visitor.get(path)
    db.put(DOCUMENTS, Document(id=6, one_text="theirs"))
    conflict = send(visitor, path, page, f__one_number="3", reason="mine")
    assert conflict.status == 409
    both = send(visitor, path, conflict, c__one_number="mine", c__one_text="theirs")
    assert both.status == 409
    assert "At most one field of choice can be set" in both.words
    assert send(visitor, path, both, c__one_number="mine", c__one_text="mine").status == 303
    assert db.get(DOCUMENTS, 6).WhichOneof("choice") == "one_number"
