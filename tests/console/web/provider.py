"""Provider: an OpenID Connect provider on this machine, for one test: authorization code with PKCE, refresh
tokens, revocation. It signs in all browsers as `person` at once."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.rpc.issuing import AUDIENCE, TestIssuer

CLIENT, SECRET = "console", "secret-of-the-console"


class TestProvider(TestIssuer):
    """`life_s`: of its tokens; `claims`: changes of ID tokens; `refuse`: an error in place of a code."""

    __test__ = False

    def __init__(self) -> None:
        super().__init__()
        self.person, self.life_s, self.refuse = "ann", 60.0, ""
        self.claims: dict[str, Any] = {}
        self.without: set[str] = set()  # names left out of token responses
        self.codes: dict[str, dict[str, str]] = {}
        self.refreshes: dict[str, str] = {}
        self.refreshed, self.revoked = 0, list[str]()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        size = int(request.headers.get("content-length", 0))
        text = request.rfile.read(size).decode() if size else parts.query
        form = {name: value for name, (value, *_) in parse_qs(text).items()}
        steps = {"/authorize": self._authorize, "/token": self._token, "/revoke": self._revoke}
        if parts.path == "/.well-known/openid-configuration" and self.status == 200:
            self._send(request, 200, self._metadata())
        elif parts.path in steps and self.status == 200:
            steps[parts.path](request, form)
        else:
            super()._answer(request)

    def _metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.name or self.url,
            "jwks_uri": f"{self.url}/keys",
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "revocation_endpoint": f"{self.url}/revoke",
            "end_session_endpoint": f"{self.url}/bye",
        }

    def _authorize(self, request: BaseHTTPRequestHandler, form: dict[str, str]) -> None:
        assert form["client_id"] == CLIENT
        assert form["response_type"] == "code"
        assert form["code_challenge_method"] == "S256"
        assert "openid" in form["scope"].split()
        code = secrets.token_urlsafe(16)
        self.codes[code] = form
        answer = {"error": self.refuse} if self.refuse else {"code": code, "iss": self.url}
        request.send_response(302)
        query = urlencode({"state": form["state"], **answer})
        request.send_header("location", f"{form['redirect_uri']}?{query}")
        request.send_header("content-length", "0")
        request.end_headers()

    def _token(self, request: BaseHTTPRequestHandler, form: dict[str, str]) -> None:
        basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        assert request.headers["authorization"] == f"Basic {basic}"
        if form["grant_type"] == "refresh_token":
            person = self.refreshes.pop(form["refresh_token"], "")
            self.refreshed += 1
            nonce = ""
        else:
            begun = self.codes.pop(form["code"], None)
            person, nonce = (self.person, begun["nonce"]) if begun else ("", "")
            if begun is not None:
                digest = hashlib.sha256(form["code_verifier"].encode()).digest()
                challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
                assert begun["code_challenge"] == challenge
                assert begun["redirect_uri"] == form["redirect_uri"]
        if not person:
            self._send(request, 400, {"error": "invalid_grant"})
            return
        refresh, ends = secrets.token_urlsafe(16), int(time.time() + self.life_s)
        self.refreshes[refresh] = person
        claims = {"aud": CLIENT, "exp": ends, **({"nonce": nonce} if nonce else {}), **self.claims}
        found = {
            "access_token": self.token(person, exp=ends, aud=AUDIENCE, jti=secrets.token_hex(8)),
            "id_token": self.token(person, **claims),
            "refresh_token": refresh,
            "token_type": "Bearer",
            "expires_in": int(self.life_s),
        }
        self._send(request, 200, {name: one for name, one in found.items() if name not in self.without})

    def _revoke(self, request: BaseHTTPRequestHandler, form: dict[str, str]) -> None:
        self.revoked.append(form["token"])
        self._send(request, 200, {})

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, status: int, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        request.send_response(status)
        request.send_header("content-type", "application/json")
        request.send_header("content-length", str(len(raw)))
        request.end_headers()
        request.wfile.write(raw)
