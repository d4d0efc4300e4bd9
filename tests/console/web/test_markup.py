"""Names and values that are markup: on every page they are text, and lead nowhere."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urlencode, urljoin, urlsplit

import pytest

from everlog.audit import holds
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.errors import Error
from everlog.store.schema.table import Table
from everlog.store.upkeep.roles import Role, Rule
from tests.conformance.database_case import AIRPORTS, FAA, Airport, open_case
from tests.console.web.test_bad_input import NAMES
from tests.console.web.visitor import Visitor, console_of

TAG = "<evil-tag>\"'><evil-tag evil-attr=1 onload=alert(1)><script>alert(1)</script>"
LINK = "javascript:alert(document.cookie)"
QUOTES = "' onfocus=alert(1) evil-attr=\" `{{7*7}}</title></textarea>"
BIDI = "\u202egnp.<evil-tag>\u2066"
HOSTILE = (TAG, LINK, QUOTES, BIDI)
NAME = "<evil-tag>&\"'"  # of a database: it is in every path

PAGES = (
    "tables tables/airports tables/airports/row tables/airports/row/edit log log/3 access access/roles"
    " access/tokens access/explain consumers consumers/one admin admin/calls admin/job load load/file people"
    " migrations"
)
LINKS = {"href", "src", "action", "formaction", "poster", "data", "hx-get", "hx-post", "sse-connect", "cite"}


class Checker(HTMLParser):
    """Finds what a page executes or leads to, and its links."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path, self.links = path, list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        where = f"{self.path}: <{tag} {found}>"
        assert not tag.startswith("evil"), where
        assert tag not in {"iframe", "object", "embed", "base", "style", "img"}, where
        if tag == "script":
            assert (found.get("src") or "").startswith("/static/"), where
        for name, value in found.items():
            assert not name.startswith(("on", "evil", "style", "srcdoc")), where
            if name in LINKS:
                scheme = urlsplit((value or "").strip().lower()).scheme
                assert scheme in {"", "http", "https"}, where
                if tag != "link":
                    assert not (value or "").startswith(("//", "/\\")), where
        if tag == "a" and (href := found.get("href")):
            self.links.append(href)


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    """Yield a database with such names wherever one is accepted."""
    with open_case("embedded", tmp_path) as case:
        db = case.embedded
        for number, text in enumerate(HOSTILE):
            db.put(AIRPORTS, Airport(faa=text, name=f"p{text}", city=text), actor=text, reason=text)
            with db.transaction(actor=text, reason=text) as tx:
                tx.delete(AIRPORTS, text)
                tx.put(AIRPORTS, Airport(faa=f"{number}{text}", name=text))
            db.load(
                AIRPORTS,
                [Airport(faa=f"l{text}", name=f"l{text}", city=text)],
                source=text,
                actor=text,
                reason=text,
            )
        for text in (TAG, LINK, QUOTES):
            db.consumers.register(text, actor=text, reason=text)
            holds.hold(db.directory, text, 1)
            db.access.define(Role(text, (Rule(("read",), ("airports",)),)), actor=text, reason=text)
            db.access.grant(text, text, actor=text, reason=text)
            db.access.create_token(text, (text,), actor=text, reason=text)
        yield db


@pytest.fixture
def visitor(evil: EmbeddedDatabase) -> Iterator[Visitor]:
    with console_of({NAME: evil}, tokens={TAG: "token"}, roles={TAG: ("owner",)}) as web:
        found = Visitor(web.url)
        assert found.sign_in("token").status == 303
        yield found


def checked(visitor: Visitor, path: str) -> list[str]:
    """Check a page, and return its links to other pages of the console."""
    answer = visitor.ask("GET", path)
    kind = answer.headers.get("content-type", "")
    assert answer.status < 500, path
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'self'; object-src 'none'")
    if location := answer.headers.get("location"):
        assert urlsplit(location).scheme in {"", "http", "https"}
        return [urljoin(path, location)]
    if not kind.startswith("text/html"):
        assert re.match(r"application/json|text/(plain|csv|event-stream)|application/", kind), (path, kind)
        return []
    found = Checker(path)
    found.feed(answer.text)
    links = (urljoin(path, link) for link in found.links)
    return [link.partition("#")[0] for link in links if not urlsplit(link).netloc]


def crawl(visitor: Visitor, each: int) -> set[str]:
    """Check the pages that links lead to, and return them: `each` of those that differ in numbers and in the
    values of their query alone."""
    todo, seen, kinds = deque(["/"]), set[str](), Counter[tuple[str, frozenset[str]]]()
    while todo:
        path = todo.popleft()
        page, _, query = re.sub(r"(?<=/api/).*|\d+|=[^&]*", "*", path).partition("?")
        kind = page, frozenset(query.split("&"))  # in any order
        kinds[kind] += 1
        if path in seen or kinds[kind] > each:
            continue
        seen.add(path)
        todo += checked(visitor, path)
    return seen


@pytest.mark.parametrize("each", [1, pytest.param(30, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_markup_in_names_and_values_is_text_on_every_page(visitor: Visitor, each: int) -> None:
    base = f"/db/{quote(NAME, safe='')}/"
    rooms = {path.removeprefix(base).split("?")[0] for path in crawl(visitor, each) if path.startswith(base)}
    assert {"tables", "log", "access", "consumers", "admin", "migrations", "load"} <= rooms


@pytest.mark.long
def test_markup_in_queries_is_text_on_every_page(visitor: Visitor) -> None:
    base = f"/db/{quote(NAME, safe='')}"
    for number, page in enumerate(PAGES.split()):
        text = HOSTILE[number % len(HOSTILE)]
        checked(visitor, f"{base}/{page}?{urlencode(dict.fromkeys(NAMES, text))}")
        checked(visitor, f"{base}/{page}/{quote(text, safe='')}")
    for path in ("/sign-in", "/account", "/api", "/api/Store/Get", "/continue/x", "/migrations"):
        for text in HOSTILE:
            checked(visitor, f"{path}?{urlencode(dict.fromkeys([*NAMES, 'next', 'once', 'ended'], text))}")
    stranger = Visitor(visitor.url)
    for text in HOSTILE:
        checked(stranger, f"/sign-in?{urlencode({'next': text, 'once': text})}")
        checked(stranger, f"/{quote(text, safe='')}")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_table_has_a_plain_name(name: str) -> None:
    with pytest.raises((Error, ValueError)):
        Table(name, Airport, key=FAA)


@pytest.mark.parametrize("name", [BIDI, "a\nb", " a"])
def test_names_of_roles_and_identities_have_no_hidden_characters(evil: EmbeddedDatabase, name: str) -> None:
    with pytest.raises(Error, match="without line ends"):
        evil.access.define(Role(name, (Rule(("read",)),)))
    with pytest.raises(Error, match="without line ends"):
        evil.access.grant(name, "reader")
