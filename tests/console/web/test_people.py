"""The pages of people: what is held of one, and forgetting them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog.store.database import Database
from tests.console.web.conftest import ROLES, TOKENS
from tests.console.web.test_admin import ended
from tests.console.web.test_consumers import signed_in
from tests.console.web.visitor import Visitor, console_of
from tests.store.people import PATIENTS, VISITS, open_people, patient, visit

PAGE = "/db/clinic/people"


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Database]:
    """Yield a database with two persons."""
    with open_people(tmp_path / "clinic") as db:
        with db.transaction(actor="ann", reason="the first patients") as tx:
            tx.put(PATIENTS, patient(1, "s-1", name="Ann Onymous"))
            tx.put(PATIENTS, patient(2, "s-2", name="Bob"))
            tx.put(VISITS, visit(7, "s-1", "a broken arm"))
        with db.transaction(actor="ann", reason="a letter from Ann Onymous") as tx:
            tx.put(PATIENTS, patient(1, "s-1", name="Ann Onymous", born=1980))
        yield db


@pytest.fixture
def desk(clinic: Database) -> Iterator[Visitor]:
    with console_of({"clinic": clinic}, tokens=TOKENS, roles=ROLES) as web:
        yield Visitor(web.url)


def test_sealed_tables_are_listed_and_an_unsealed_database_says_what_to_do(
    desk: Visitor, open_console: Visitor
) -> None:
    ann = signed_in(desk, "ann")
    found = ann.json(PAGE)["tables"]
    assert [(one["name"], one["rows"], one["person"]) for one in found] == [
        ("patients", 2, "subject"),
        ("visits", 1, "subject"),
    ]
    assert "No table is sealed" in open_console.get("/db/flights/people").words


def test_what_is_held_of_a_person_is_shown_exported_and_forgotten(desk: Visitor, clinic: Database) -> None:
    ann = signed_in(desk, "ann")
    ann.get(PAGE)
    page = ann.post(f"{PAGE}/person", None, table="patients", key="1")
    assert page.status == 200
    assert "patients 1 row visits 1 row Versions 3 versions" in page.words
    assert "Actor and reason of 2 commits" in page.words
    assert "reason of" in page.words, "a text that mentions the person"
    assert "Ann Onymous" not in page.text, "counts, and no rows"
    exported = ann.post(f"{PAGE}/export", None, table="patients", person="s-1")
    assert exported.headers["content-disposition"].startswith("attachment")
    assert "a broken arm" in exported.text
    assert {one["table"] for one in json.loads(exported.text)["rows"]} == {"patients", "visits"}

    form = {"table": "patients", "key": "1"}
    assert "expected a reason" in ann.post(f"{PAGE}/forget", None, typed="1", **form).words
    refused = ann.post(f"{PAGE}/forget", None, typed="2", reason="asked for it", **form)
    assert refused.status == 400
    assert "Forgetting deletes" in refused.words, "the page stays"
    assert clinic.count(PATIENTS) == 2
    done = ann.post(f"{PAGE}/forget", None, typed="1", reason="asked for it on 3 May", **form)
    assert done.status == 200
    assert f"2 rows deleted, and the key destroyed, in commit {clinic.head}" in done.words
    assert clinic.count(PATIENTS) == 1
    assert clinic.count(VISITS) == 0
    assert "asked for it on 3 May" in ann.get(f"/db/clinic/log/{clinic.head}").words
    again = ann.post(f"{PAGE}/forget", None, typed="1", reason="again", **form)
    assert again.status == 400
    other = ann.post(f"{PAGE}/person", None, table="patients", person="s-1")
    assert "Key forgotten" in other.words or other.status == 400


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"table": "patients"}, "expected the key of a row, or the value"),
        ({"table": "patients", "key": "1", "person": "s-1"}, "expected the key of a row, or the value"),
        ({"table": "patients", "key": "soon"}, "the key of patients"),
        ({"table": "patients", "key": "99"}, "data about that person"),
        ({"table": "patients", "person": "<i>nobody</i>"}, "has data about that person"),
        ({"table": "items", "key": "1"}, "are not sealed"),
        ({"table": "nowhere", "key": "1"}, "nowhere"),
    ],
)
def test_an_unknown_person_is_refused_beside_the_form(
    desk: Visitor, form: dict[str, str], words: str
) -> None:
    ann = signed_in(desk, "ann")
    ann.get(PAGE)
    for path in ("person", "export"):
        answer = ann.post(f"{PAGE}/{path}", None, **form)
        assert answer.status == 400, path
        assert words in answer.words
        assert "<i>nobody" not in answer.text


def test_readable_data_is_searched_as_a_job(desk: Visitor) -> None:
    ann = signed_in(desk, "ann")
    ann.get(PAGE)
    job = ended(ann, ann.post(f"{PAGE}/readable").headers["location"])
    assert (job["state"], job["result"]) == ("Done", "No personal data is readable without keys.")
    (listed,) = ann.json(PAGE)["jobs"]
    assert listed["id"] == job["id"]
    job = ended(ann, ann.post(f"{PAGE}/rotate", reason="yearly").headers["location"])
    assert "no next master key is configured" in job["error"]


def test_who_may_not_forget_sees_no_form_and_is_refused(desk: Visitor, clinic: Database) -> None:
    bob = signed_in(desk, "bob")
    page = bob.get(PAGE)
    assert page.status == 200
    assert 'method="post"' not in page.text
    form = {"table": "patients", "key": "1", "typed": "1", "reason": "x"}
    for path in ("person", "export", "forget", "readable", "rotate"):
        assert bob.post(f"{PAGE}/{path}", None, **form).status == 403, path
    assert clinic.count(PATIENTS) == 2
