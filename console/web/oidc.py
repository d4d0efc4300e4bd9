"""OIDC: signing in at an OpenID Connect provider (Core 1.0; RFC 6749, 7636, 9207).

    /sign-in/oidc           state, nonce and code verifier are kept here ─▶ the provider's page
    /sign-in/oidc/callback  code and verifier ─▶ tokens ─▶ ID token verified ─▶ Sessions.sign_in

The session presents the access token or the ID token to the server, which verifies it as for every caller
(`serve --jwt-issuer`). With a refresh token, the session gets a new one before it ends.

Invariants
  (1) a sign-in ends in the browser in which it began, once, within ten minutes;
  (2) no token leaves this process but to the server and to the provider;
  (3) the provider is called by HTTPS, or on this machine, without redirects and for a limited time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from everlog.console.web.session import SignInError
from everlog.rpc.server.issuer import DEFAULT_ALGORITHMS, check_url, is_jwt
from everlog.store.errors import OpenError
from everlog.store.program_log import about

with suppress(ImportError):  # an extra: `Provider` reports that it is missing
    import requests
    from authlib.integrations.base_client import OAuthError
    from authlib.integrations.requests_client import OAuth2Session
    from joserfc import jwt
    from joserfc.errors import (
        BadSignatureError,
        ExpiredTokenError,
        InvalidClaimError,
        JoseError,
        MissingClaimError,
    )
    from joserfc.jwk import KeySet

CALLBACK = "/sign-in/oidc/callback"
PENDING_S, PENDING_MAX = 600.0, 1000
METADATA_S, CALL_S, LEEWAY_S = 300.0, 5.0, 30
AGAIN_S = 30.0  # between attempts to renew a token
ANSWER_BYTES_MAX = 256 << 10
NEEDED = ("authlib", "joserfc", "requests")
KINDS = ("access", "id")

logger = logging.getLogger("everlog")


class ProviderError(SignInError):
    """Raised when a provider does not answer, or not as OpenID Connect says."""


class Oidc(NamedTuple):
    """How the console signs in at a provider. `kind`: which of its tokens the server accepts (KINDS)."""

    issuer: str
    client_id: str
    secret: str = ""
    scopes: tuple[str, ...] = ()
    kind: str = "access"


class Grant(NamedTuple):
    """What a provider granted. `token` is presented to the server, and ends at `ends_s` (seconds since the
    Unix epoch)."""

    token: str
    ends_s: float
    refresh: str
    subject: str


class Begun(NamedTuple):
    """A sign-in that has begun: the digest of its browser's cookie, and what only the provider may know."""

    browser: bytes
    nonce: str
    verifier: str
    back: str
    until_s: float


def check(settings: Oidc) -> None:
    """Raise OpenError for settings that are invalid or unsafe, and without the libraries."""
    lacks = [name for name in NEEDED if find_spec(name) is None]
    if lacks:
        raise OpenError(
            f"--console-oidc-client needs {', '.join(lacks)}, not installed here; pip install"
            " 'everlog[console,oidc]'"
        )
    check_url(settings.issuer, "--console-oidc-issuer")


class Provider:
    """The provider of one console, whose URL for browsers is `console_url`. Thread-safe. Raises OpenError for
    settings that are invalid or unsafe, and without the libraries."""

    def __init__(self, settings: Oidc, console_url: str) -> None:
        check(settings)
        self.settings, self._console_url = settings, console_url
        self._begun: OrderedDict[bytes, Begun] = OrderedDict()
        self._known: dict[str, tuple[float, dict[str, Any]]] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The host of the provider, which people know it by."""
        return urlsplit(self.settings.issuer).netloc

    # signing in

    def begin(self, browser: str, back: str) -> str:
        """Return the URL of the provider's page, for the browser with this cookie. `back`: the page that
        follows. Raises ProviderError."""
        endpoint = self._endpoint("authorization_endpoint")
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        with self._session() as session:
            url: str = session.create_authorization_url(
                endpoint, state=state, code_verifier=verifier, nonce=nonce
            )[0]
        begun = Begun(_digest(browser), nonce, verifier, back, time.monotonic() + PENDING_S)
        with self._lock:
            self._begun[_digest(state)] = begun
            if len(self._begun) > PENDING_MAX:
                self._begun.popitem(last=False)
        return url

    def finish(self, browser: str, answer: Mapping[str, str]) -> tuple[Grant, str]:
        """Return what the provider grants for the query of its redirect, and the page that follows. Raises
        SignInError, ProviderError."""
        with self._lock:
            begun = self._begun.pop(_digest(answer.get("state", "")), None)
        if begun is None or begun.until_s < time.monotonic():
            raise SignInError(
                "this sign-in was used already, is older than ten minutes, or began before a restart; begin"
                " again"
            )
        if not secrets.compare_digest(begun.browser, _digest(browser)):
            raise SignInError("another browser began this sign-in; begin again in this one")
        if answer.get("iss", self.settings.issuer) != self.settings.issuer:
            raise SignInError(f"another provider than {self.name} answered; begin again")
        if "error" in answer:
            raise SignInError(f"{self.name} refused the sign-in: {_words(answer['error'])}")
        tokens = self._tokens("authorization_code", code=answer.get("code", ""), code_verifier=begun.verifier)
        return self._granted(tokens, nonce=begun.nonce), begun.back

    def refresh(self, grant: Grant) -> Grant:
        """Return a new grant of the same person for a refresh token. Raises SignInError, ProviderError."""
        tokens = self._tokens("refresh_token", refresh_token=grant.refresh)
        return self._granted({"refresh_token": grant.refresh, **tokens}, before=grant)

    def revoke(self, grant: Grant) -> None:
        """End a refresh token at the provider, if it has a way to (RFC 7009). A failure is logged."""
        try:
            url = self._metadata().get("revocation_endpoint")
            if grant.refresh and isinstance(url, str):
                with self._session() as session:
                    session.revoke_token(
                        url,
                        token=grant.refresh,
                        token_type_hint="refresh_token",  # noqa: S106  a kind of token
                        timeout=CALL_S,
                        allow_redirects=False,
                    ).raise_for_status()
        except (ProviderError, requests.RequestException) as error:
            logger.warning(
                "a refresh token could not be revoked at %s: %s",
                *(self.name, type(error).__name__),
                extra=about("console.revoke"),
            )

    def end_url(self) -> str:
        """Return the page where a browser signs out of the provider; empty: it has none, or does not
        answer."""
        try:
            url = self._metadata().get("end_session_endpoint", "")
            check_url(str(url), "end_session_endpoint")
        except (ProviderError, OpenError):
            return ""
        back = {
            "client_id": self.settings.client_id,
            "post_logout_redirect_uri": f"{self._console_url}/sign-in",
        }
        return f"{url}{'&' if '?' in url else '?'}{urlencode(back)}"

    # tokens

    def _tokens(self, kind: str, **fields: str) -> dict[str, Any]:
        """Return the response of the token endpoint. Raises SignInError, ProviderError."""
        url = self._endpoint("token_endpoint")
        try:
            with self._session() as session:
                how = {"timeout": CALL_S, "allow_redirects": False}
                if kind == "refresh_token":
                    found = session.refresh_token(url, **fields, **how)
                else:
                    found = session.fetch_token(url, grant_type=kind, **fields, **how)
        except OAuthError as error:
            raise SignInError(f"{self.name} refused the sign-in: {_words(error.error)}") from None
        except (requests.RequestException, ValueError, KeyError) as error:
            raise self._away(error) from None
        return dict(found)

    def _granted(self, tokens: Mapping[str, Any], nonce: str = "", before: Grant | None = None) -> Grant:
        """Return the grant in a response, whose ID token is verified."""
        signed, access = tokens.get("id_token"), tokens.get("access_token")
        subject, ends_s = before.subject if before is not None else "", time.time() + 300
        if isinstance(signed, str):
            claims = self._claims(signed, nonce)
            if before is not None and claims["sub"] != before.subject:
                raise SignInError(f"{self.name} answered for another person; sign in again")
            subject, ends_s = claims["sub"], float(claims["exp"])
        elif before is None or self.settings.kind == "id":
            raise ProviderError(f"{self.name} returned no ID token; is it an OpenID Connect provider?")
        if self.settings.kind == "access":
            if not isinstance(access, str) or not is_jwt(access):
                raise ProviderError(
                    f"{self.name} returned no access token that is a JSON Web Token; set --console-oidc-token"
                    " id, or a scope for which it returns one"
                )
            signed = access
            if isinstance(tokens.get("expires_at"), int | float):
                ends_s = float(tokens["expires_at"])
        refresh = tokens.get("refresh_token")
        return Grant(str(signed), ends_s, refresh if isinstance(refresh, str) else "", subject)

    def _claims(self, signed: str, nonce: str) -> dict[str, Any]:
        """Return the claims of an ID token. Raises SignInError for one that is not for this sign-in."""
        client = self.settings.client_id
        expected: dict[str, Any] = {
            "iss": {"essential": True, "value": self.settings.issuer},
            "aud": {"essential": True, "value": client},
            **{name: {"essential": True} for name in ("sub", "exp", "iat")},
        }
        if nonce:
            expected["nonce"] = {"essential": True, "value": nonce}
        try:
            claims = self._decoded(signed)
            jwt.JWTClaimsRegistry(leeway=LEEWAY_S, **expected).validate(claims)
        except ExpiredTokenError:
            raise SignInError(
                f"the ID token of {self.name} has expired; sign in again, and compare the clocks"
            ) from None
        except InvalidClaimError as error:
            words = {
                "iss": "is of another issuer",
                "aud": "is for another client",
                "nonce": "is of another sign-in",
            }
            why = words.get(str(error.claim), f"has no valid {error.claim}")
            raise SignInError(f"the ID token of {self.name} {why}; sign in again") from None
        except MissingClaimError as error:
            raise SignInError(f"the ID token of {self.name} has no {error.claim}; sign in again") from None
        except (JoseError, ValueError, KeyError, TypeError) as error:
            why = "signature" if isinstance(error, BadSignatureError) else type(error).__name__
            raise SignInError(f"the ID token of {self.name} cannot be verified: {why}") from None
        if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and claims.get("azp") != client:
            raise SignInError(f"the ID token of {self.name} is for another client; sign in again")
        return {**claims, "sub": str(claims["sub"])}

    def _decoded(self, signed: str) -> dict[str, Any]:
        """Return the claims whose signature is the provider's; new keys are read once."""
        for again in (False, True):
            keys = KeySet.import_key_set(self._json(self._endpoint("jwks_uri"), again=again))  # type: ignore[arg-type]
            try:
                return dict(jwt.decode(signed, keys, algorithms=list(DEFAULT_ALGORITHMS)).claims)
            except (BadSignatureError, ValueError, JoseError):
                if again:
                    raise
        raise AssertionError

    # the provider

    def _session(self) -> Any:
        settings = self.settings
        method = None
        if settings.secret:
            known = self._metadata().get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
            method = "client_secret_basic" if "client_secret_basic" in known else "client_secret_post"
        return OAuth2Session(
            settings.client_id,
            settings.secret or None,
            scope=" ".join(dict.fromkeys(("openid", *settings.scopes))),
            redirect_uri=self._console_url + CALLBACK,
            code_challenge_method="S256",
            token_endpoint_auth_method=method,
        )

    def _endpoint(self, name: str) -> str:
        url = self._metadata().get(name, "")
        try:
            check_url(str(url), name)
        except OpenError as error:
            raise ProviderError(f"the metadata of {self.name}: {error}") from None
        return str(url)

    def _metadata(self) -> dict[str, Any]:
        """Return the provider's metadata (OpenID Connect Discovery 1.0). Raises ProviderError."""
        found = self._json(f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != self.settings.issuer:
            raise ProviderError(
                f"expected the metadata of {self.settings.issuer}, found those of another issuer; compare"
                " --console-oidc-issuer"
            )
        return found

    def _json(self, url: str, *, again: bool = False) -> dict[str, Any]:
        """Return a JSON object of the provider, at most METADATA_S old. Raises ProviderError."""
        with self._lock:
            until, found = self._known.get(url, (0.0, {}))
        if not again and time.monotonic() < until:
            return found
        try:
            with requests.get(url, timeout=CALL_S, allow_redirects=False, stream=True) as answer:
                answer.raise_for_status()
                raw = b""
                for part in answer.iter_content(65_536):
                    raw += part
                    if len(raw) > ANSWER_BYTES_MAX:
                        raise ValueError("it is too large")
                found = json.loads(raw)
            if answer.status_code != 200 or not isinstance(found, dict):
                raise ValueError("it is not a JSON object")
        except (requests.RequestException, ValueError) as error:
            raise self._away(error) from None
        with self._lock:
            self._known[url] = time.monotonic() + METADATA_S, found
        return found

    def _away(self, error: Exception) -> ProviderError:
        why = "it cannot be reached" if isinstance(error, requests.ConnectionError) else type(error).__name__
        if isinstance(error, requests.HTTPError) and error.response is not None:
            why = f"status {error.response.status_code}"
        if isinstance(error, requests.Timeout):
            why = f"no answer within {CALL_S:.0f} s"
        return ProviderError(
            f"the provider {self.name} does not answer as expected ({why}); try again later, or sign in with"
            " a token"
        )


class Renewing:
    """Renews the token of one session at its provider; see `session.Renewal`."""

    def __init__(self, provider: Provider, grant: Grant) -> None:
        self._provider, self._grant = provider, grant
        self._due_s = _due(grant)

    def due(self) -> bool:
        return time.time() >= self._due_s

    def renew(self) -> str:
        try:
            self._grant = self._provider.refresh(self._grant)
        except SignInError as error:
            self._due_s = time.time() + AGAIN_S
            logger.warning("a session cannot be renewed: %s", error, extra=about("console.renew"))
            return ""
        self._due_s = _due(self._grant)
        return self._grant.token

    def revoke(self) -> None:
        self._provider.revoke(self._grant)


def _due(grant: Grant) -> float:
    """Return when to renew a grant: a minute before it ends, or after four fifths of a short life."""
    left_s = grant.ends_s - time.time()
    return grant.ends_s - min(60.0, left_s / 5) if grant.refresh else math.inf


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="replace")).digest()


def _words(text: object) -> str:
    """Return the code of an error, without what does not belong into one (RFC 6749, 4.1.2.1)."""
    return "".join(letter for letter in str(text)[:80] if " " <= letter <= "~") or "without a reason"
