"""Issuing: an OpenID Connect issuer on this machine, with real keys, for one test."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from joserfc import jwt
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

AUDIENCE = "everlog"
NEW: dict[str, Callable[[], Key]] = {
    "RSA": lambda: RSAKey.generate_key(2048),
    "EC": lambda: ECKey.generate_key("P-256"),
    "OKP": lambda: OKPKey.generate_key("Ed25519"),
}


class Http(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing of handshakes that a client ended."""


class TestIssuer:
    """Serves discovery and JWKS over HTTP, or over HTTPS with a certificate and its key, and signs tokens.
    `asked` counts the requests for keys."""

    __test__ = False

    def __init__(self, *tls: Path) -> None:
        self.keys: dict[str, Key] = {}
        self.published: dict[str, Key] = {}
        self.extra: list[dict[str, Any]] = []  # published as they are
        self.status, self.asked = 200, 0
        self.name = ""  # in the metadata; empty: its own
        self.body: bytes | None = None  # in place of the JWKS
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._answer(self)

            def do_POST(self) -> None:
                outer._answer(self)

            def log_message(self, *_: Any) -> None: ...

        self._http = Http(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls[0], tls[1])
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._http.server_port}"
        self.add("one")

    def add(self, kid: str, kind: str = "RSA", *, publish: bool = True) -> Key:
        key = self.keys[kid] = NEW[kind]()
        if publish:
            self.published[kid] = key
        return key

    def jwks(self) -> dict[str, Any]:
        """Return the keys that it publishes."""
        found = [key.as_dict(private=False) | {"kid": kid} for kid, key in list(self.published.items())]
        return {"keys": [*found, *self.extra]}

    def token(
        self,
        name: str = "ann",
        *,
        kid: str | None = "one",
        alg: str = "RS256",
        typ: str = "JWT",
        **claims: Any,
    ) -> str:
        """Return a token, valid for a minute unless the claims say otherwise; None leaves a claim out."""
        now = int(time.time())
        said = {"iss": self.url, "aud": AUDIENCE, "sub": name, "iat": now, "exp": now + 60} | claims
        header = {"alg": alg, "typ": typ} | ({"kid": kid} if kid is not None else {})
        said = {claim: value for claim, value in said.items() if value is not None}
        return jwt.encode(header, said, self.keys[kid or "one"], algorithms=[alg])

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        if request.path == "/.well-known/openid-configuration":
            body = json.dumps({"issuer": self.name or self.url, "jwks_uri": f"{self.url}/keys"}).encode()
        else:
            self.asked += 1
            body = json.dumps(self.jwks()).encode() if self.body is None else self.body
        request.send_response(self.status)
        if self.status == 302:
            request.send_header("location", f"{self.url}/elsewhere")
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
