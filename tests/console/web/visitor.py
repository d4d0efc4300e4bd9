"""A visitor of the console without a browser: cookies, forms and redirects over real HTTP; and a console."""

from __future__ import annotations

import contextlib
import html
import http.client
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from everlog.console.web.oidc import Oidc
from everlog.console.web.server import WebServer, own_server
from everlog.console.web.setup import Setup
from everlog.rpc.server.server import Server
from everlog.store.database import Database


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: dict[str, str]
    cookies: list[str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def words(self) -> str:
        """The text that a reader sees."""
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", self.text)).split())


class Visitor:
    """Keeps cookies, and the CSRF token of the last page."""

    def __init__(self, url: str, *, tls: ssl.SSLContext | None = None, source: str = "") -> None:
        """`source`: the address that it comes from."""
        self.url, self._tls = url, tls
        self._source = (source, 0) if source else None
        self.cookies = dict[str, str]()
        self.csrf = ""

    def ask(
        self,
        method: str,
        path: str,
        body: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        connection = (
            http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=30, context=self._tls, source_address=self._source
            )
            if self._tls
            else http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
        )
        with contextlib.closing(connection):
            sent = {"Accept": "text/html", **(headers or {})}
            if self.cookies:
                sent.setdefault(
                    "Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items())
                )
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
            cookies = response.headers.get_all("Set-Cookie") or []
        for cookie in cookies:
            name, _, value = cookie.partition(";")[0].partition("=")
            if value.strip('"') and "max-age=0" not in cookie.lower():
                self.cookies[name] = value
            else:
                self.cookies.pop(name, None)
        if found := re.search(r'name="csrf(?:-token)?" (?:value|content)="([0-9a-f]+)"', text):
            self.csrf = found[1]
        lower = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, lower, cookies, text)

    def get(self, path: str, *, follow: bool = True, **headers: str) -> Answer:
        """Return a page, after its redirects."""
        answer = self.ask("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        return self.get(answer.headers["location"]) if follow and answer.status == 303 else answer

    def json(self, path: str) -> Any:
        """Return the JSON twin of a page."""
        answer = self.ask("GET", path, headers={"Accept": "application/json"})
        assert answer.headers["content-type"] == "application/json", answer.text
        return answer.json

    def post(self, path: str, headers: Mapping[str, str] | None = None, **fields: str) -> Answer:
        """Send a form, as a page of the console would."""
        form = {"csrf": self.csrf, **fields}
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Origin": self.url}
        return self.ask("POST", path, urlencode(form), {**kind, **(headers or {})})

    def sign_in(self, token: str, **fields: str) -> Answer:
        self.get("/sign-in")
        return self.post("/sign-in", None, token=token, **fields)


@contextlib.contextmanager
def console_of(
    databases: Mapping[str, Database],
    *,
    setup: Setup | None = None,
    oidc: Oidc | None = None,
    **how: Any,
) -> Iterator[WebServer]:
    """Serve databases, and their console."""
    with Server(databases, **how) as server:
        tls = server.tls_files
        web = WebServer("127.0.0.1:0", tls=(tls.certificate, tls.key) if tls else None, oidc=oidc)
        web.server = own_server(server.host, server.port, tls)
        web.setup = setup or Setup()
        with web:
            yield web
