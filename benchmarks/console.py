"""console, console_live: the pages of the console, and what open pages cost the writer.

console        the server time of each page, one line a page, over one connection. The database has `run.n`
               commits of one row and about as many rows; the first row has a thousand versions.
console_live   the duration of a commit with 50 pages open that show each commit as it is made (server-sent
               events), of two sessions, 20 commits a second; `console_alone`: without pages. The difference
               in memory is that of the pages.

Server, console and writer are one process, as in `everlog serve --console`; the visitors are another one.
"""

from __future__ import annotations

import contextlib
import http.client
import selectors
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from benchmarks.helper import Helper, Starter
from benchmarks.history import OF_ONE
from benchmarks.measure import Measure, Run
from benchmarks.rows import name, row
from benchmarks.served import DATABASE, obey

ASKED = 20
LIVE, RATE, ROUNDS = 50, 20, 6
TOKENS = {"ann": "token-of-ann", "bob": "token-of-bob"}  # a session has at most 32 live pages
TIMEOUT_S = 60

_OF, _ITEMS = f"/db/{DATABASE}", f"/db/{DATABASE}/tables/items"
# The address of each page; {…} are facts of the database, see `facts`.
PAGES = {
    "overview": "/",
    "account": "/account",
    "tables": f"{_OF}/tables",
    "table": _ITEMS,
    "table_index": f"{_ITEMS}?index=by_name",
    "table_found": f"{_ITEMS}?q=name+%3D+{{name}}&index=by_name",
    "table_search": f"{_ITEMS}?q=kind+%3D+nothing",
    "table_facet": f"{_ITEMS}?facet=kind",
    "table_500": f"{_ITEMS}?limit=500",
    "table_past": f"{_ITEMS}?at={{middle}}",
    "row": f"{_ITEMS}/row?k={{middle}}",
    "row_versions": f"{_ITEMS}/row?k=1",
    "row_past": f"{_ITEMS}/row?k=1&at={{middle}}",
    "log": f"{_OF}/log",
    "log_middle": f"{_OF}/log?until={{middle}}",
    "log_search": f"{_OF}/log?actor=nobody",
    "log_row": f"{_OF}/log?key=items/1",
    "commit": f"{_OF}/log/{{middle}}",
    "migrations": "/migrations",
    "migrations_of": f"{_OF}/migrations",
    "new": f"{_ITEMS}/new",
    "edit": f"{_ITEMS}/row/edit?k={{middle}}",
    "load": f"{_OF}/load",
    "consumers": f"{_OF}/consumers",
    "people": f"{_OF}/people",
    "access": f"{_OF}/access",
    "roles": f"{_OF}/access/roles",
    "tokens": f"{_OF}/access/tokens",
    "admin": f"{_OF}/admin",
    "calls": f"{_OF}/admin/calls",
    "backups": f"{_OF}/admin/backups",
    "settings": f"{_OF}/admin/settings",
    "api": "/api",
    "api_method": f"/api/Store/Scan?database={DATABASE}",
}


def prepared(run: Run) -> Path:
    """Return a closed database of `run.n` commits whose history was read."""
    from benchmarks.items import ITEMS, message, open_items

    folder = run.prepared / f"console-{run.n}"
    if not folder.exists():
        making, every = folder.with_suffix(".making"), max(run.n // OF_ONE, 2)
        with open_items(making) as db:
            for number in range(1, run.n + 1):
                again = number > 1 and number % every == 0
                db.put(ITEMS, message(row(number)._replace(id=1) if again else row(number)))
            db.past.catch_up()
        making.rename(folder)
    return folder


def facts(n: int) -> dict[str, Any]:
    """Return what the addresses of PAGES need. `middle` is a row and a commit."""
    middle = n // 2 + 1 if n // 2 % max(n // OF_ONE, 2) == 0 else n // 2
    return {"middle": middle, "name": name(middle)}


def serve(starter: Starter, folder: str, tokens: Mapping[str, str] | None = None) -> None:
    """Serve a database and its console; write on request, as `served.everlog` does. `tokens`: by the name of
    the owner."""
    from benchmarks.items import ITEMS, message, open_items
    from everlog.console.web.server import WebServer, own_server
    from everlog.rpc.server.server import Server

    how: dict[str, Any] = {"tokens": tokens, "roles": dict.fromkeys(tokens, ("owner",))} if tokens else {}
    with open_items(Path(folder), durability="sync") as db, Server({DATABASE: db}, **how) as server:
        web = WebServer("127.0.0.1:0")
        web.server = own_server(server.host, server.port, None)
        with web:
            starter.say({"url": web.url, "head": db.head})
            obey(starter, db.head + 1, lambda number: message(row(number)), lambda item: db.put(ITEMS, item))


def pages(run: Run) -> list[Measure]:
    found, known = [], facts(run.n)
    with Helper("benchmarks.console:serve", folder=str(prepared(run))) as server:
        where = urlsplit(server.hear()["url"])
        with contextlib.closing(http.client.HTTPConnection(where.netloc, timeout=TIMEOUT_S)) as visitor:
            for page, address in PAGES.items():
                took = [_ask(visitor, address.format(**known)) for _ in range(ASKED)]
                rss_mb = server.ask({"write": 0, "rate": 1})["rss_mb"]
                name = f"console_{page}"
                found.append(run.measure(ASKED, sum(took) / 1e9, took, bench=name, rss_mb=rss_mb))
    return found


def _ask(visitor: http.client.HTTPConnection, address: str) -> int:
    """Return the nanoseconds that the whole page took."""
    start = time.perf_counter_ns()
    visitor.request("GET", address, headers={"Accept": "text/html"})
    answer = visitor.getresponse()
    answer.read()
    took = time.perf_counter_ns() - start
    assert answer.status == 200, f"{address}: expected status 200, found {answer.status}"
    return took


def _signed_in(url: str, token: str) -> str:
    """Return the cookies of a new session."""
    cookies = dict[str, str]()

    def text() -> str:
        return "; ".join(f"{name}={value}" for name, value in cookies.items())

    def ask(method: str, **form: str) -> tuple[int, str]:
        sent = {
            "Cookie": text(),
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": url,
        }
        with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)) as one:
            one.request(method, "/sign-in", urlencode(form), sent)
            answer = one.getresponse()
            for cookie in answer.headers.get_all("Set-Cookie") or []:
                name, _, value = cookie.partition(";")[0].partition("=")
                cookies[name] = value
            return answer.status, answer.read().decode()

    _, page = ask("GET")
    csrf = page.partition('name="csrf" value="')[2].partition('"')[0]
    status, _ = ask("POST", token=token, csrf=csrf)
    assert status == 303, f"expected status 303 after the sign-in, found {status}"
    return text()


class LivePages:
    """Connections that receive the commits of the log as pages do, while entered. `cookies`: those of the
    sessions, which have equally many of them."""

    def __init__(self, url: str, count: int, cookies: Sequence[str]) -> None:
        where = urlsplit(url)
        assert where.hostname is not None
        assert where.port is not None
        self._selector = selectors.DefaultSelector()
        self._sockets = [socket.create_connection((where.hostname, where.port)) for _ in range(count)]
        for number, one in enumerate(self._sockets):
            cookie = cookies[number % len(cookies)]
            head = f"GET {_OF}/log/events HTTP/1.1\r\nHost: {where.netloc}\r\nCookie: {cookie}\r\n\r\n"
            one.sendall(head.encode())
            self._selector.register(one, selectors.EVENT_READ, number)
        self._left = [b""] * count
        self.counts = [0] * count

    def read(self, ready: Any) -> None:
        """Receive until `ready()`. Raises TimeoutError."""
        until = time.monotonic() + TIMEOUT_S
        while not ready():
            if time.monotonic() > until:
                raise TimeoutError(f"the pages received {min(self.counts)} to {max(self.counts)} events")
            for key, _ in self._selector.select(0.05):
                data = self._left[key.data] + self._sockets[key.data].recv(1 << 20)
                self.counts[key.data] += data.count(b"event: commit\n")
                self._left[key.data] = data[-len(b"event: commit") :]

    def heard(self) -> bool:
        """Whether every page has begun its stream."""
        return all(self._left)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for one in self._sockets:
            one.close()


def live(run: Run) -> list[Measure]:
    """Measure `run.n` commits with pages and as many without, alternately, so that other load on the machine
    affects both equally."""
    count, part = min(LIVE, run.n), max(run.n // ROUNDS, 1)
    took: dict[str, list[int]] = {"console_alone": [], "console_live": []}
    rss_mb = dict[str, float]()
    with Helper("benchmarks.console:serve", folder=str(run.folder), tokens=TOKENS) as server:
        url = server.hear()["url"]
        cookies = [_signed_in(url, token) for token in TOKENS.values()]
        order = {"write": part, "rate": RATE}
        server.ask(order)
        for _ in range(ROUNDS):
            alone = server.ask(order)
            with LivePages(url, count, cookies) as open_pages:
                open_pages.read(open_pages.heard)
                server.say(order)
                open_pages.read(lambda: min(open_pages.counts) >= part)
                busy = server.hear()
            for bench, measured in (("console_alone", alone), ("console_live", busy)):
                took[bench] += measured["took"]
                rss_mb.setdefault(bench, measured["rss_mb"])
    return [
        run.measure(len(each), sum(each) / 1e9, each, bench=bench, rss_mb=rss_mb[bench])
        for bench, each in took.items()
    ]
