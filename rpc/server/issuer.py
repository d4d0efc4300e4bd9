"""Issuer: callers with a JSON Web Token of an OpenID Connect issuer (RFC 7519, 8725, 9068).

    token ─▶ algorithm of the list ─▶ key of that `kid` ─▶ signature ─▶ iss aud exp nbf iat ─▶ name, roles
                                          │
             discovery ─▶ JWKS ───────────┘   read when the server starts, every REFRESH_S, and for a token
                                              with an unknown key, but not within AGAIN_S of the last time

The event loop waits for no issuer: a call whose key is being looked up ends with UNAVAILABLE, and clients
repeat it. Signatures are verified by the library joserfc (the extra `oidc`).

Invariants
  (1) only asymmetric algorithms of the configured list, each with keys of its own type;
  (2) keys that could not be read again for STALE_S verify nothing;
  (3) no message contains any part of a token;
  (4) a verified token is remembered by its SHA-256, until it ends or the keys change.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import grpc

from everlog.rpc.address import is_loopback
from everlog.rpc.http2.grpc import Aborted
from everlog.rpc.security import Identity
from everlog.store.environment import read_file
from everlog.store.errors import OpenError, RowError
from everlog.store.program_log import about
from everlog.store.tx.transaction import Actor, Proof
from everlog.store.upkeep.roles import check_name

with suppress(ImportError):  # an extra: `Issuer` reports that it is missing
    from joserfc import jws
    from joserfc.errors import BadSignatureError, JoseError
    from joserfc.jwk import ECKey, Key, OKPKey, RSAKey, import_key

REFRESH_S, AGAIN_S, STALE_S = 300.0, 10.0, 86_400.0
FETCH_S = 5.0
JWKS_BYTES_MAX, TOKEN_BYTES_MAX, HEADER_BYTES_MAX = 256 << 10, 12 << 10, 4096
KEYS_MAX, TRIED_MAX, KNOWN_MAX = 100, 4, 4096
RSA_BITS_MIN = 2048
LEEWAY_S, LEEWAY_S_MAX = 30.0, 300.0
ALGORITHMS = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    **dict.fromkeys(("EdDSA", "Ed25519"), "OKP"),
}
DEFAULT_ALGORITHMS = ("RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519")
_TYPES = frozenset({"", "jwt", "at+jwt", "application/at+jwt"})
_SHAPE = re.compile(r"[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)

logger = logging.getLogger("everlog")


class Jwt(NamedTuple):
    """How a server accepts tokens of an issuer. `jwks`: URL or file of its keys; empty: by discovery.
    `name_claim` has the caller's name, which gets `name_prefix`. `roles` maps values of `roles_claim` to
    roles; a caller without any of them has the roles that are granted to its name. `leeway_s`: accepted
    difference of clocks."""

    issuer: str
    audience: str
    jwks: str = ""
    algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS
    name_claim: str = "sub"
    name_prefix: str = ""
    roles_claim: str = ""
    roles: Mapping[str, tuple[str, ...]] = {}
    leeway_s: float = LEEWAY_S


class Issuer:
    """Verifies tokens in the thread of an event loop, where `keep` runs as a task. Raises OpenError for rules
    that are invalid or unsafe, and without joserfc."""

    def __init__(self, rules: Jwt) -> None:
        check_rules(rules)
        self.rules = rules
        self.generation = 0  # increases when other keys are in use
        self._keys: list[tuple[str, str, str, Key]] | None = None  # kid, kty, alg, key
        self._source = ""
        self._read_s = -math.inf  # when the keys were last read, on the monotonic clock
        self._tried_s = -math.inf
        self._failed = False
        self._wanted = asyncio.Event()
        self._known: OrderedDict[bytes, Identity] = OrderedDict()

    def replace(self, rules: Jwt) -> None:
        """Accept tokens by other rules from now on; they were checked. In the thread of the event loop."""
        before, self.rules = self.rules, rules
        self._known.clear()
        self.generation += 1
        if (rules.issuer, rules.jwks) != (before.issuer, before.jwks):
            self._keys, self._source = None, ""
            self._failed = False
        self._wanted.set()

    # tokens

    def identify(self, text: str, digest: bytes) -> Identity:
        """Return whose token this is. Raises Aborted: UNAUTHENTICATED, or UNAVAILABLE while its key is
        unknown."""
        if self._keys is None or time.monotonic() - self._read_s > STALE_S:
            self._want()
            _unavailable("the server has no current keys of the issuer of this token")
        found = self._known.get(digest)
        if found is None:
            found = self._verified(text)._replace(token=digest)
            self._known[digest] = found
            if len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
        if time.time_ns() >= found.expires_ns:
            _refuse("the token has expired; send a new one")
        return found

    def _verified(self, text: str) -> Identity:
        if len(text) > TOKEN_BYTES_MAX:
            _refuse(f"expected a token of at most {TOKEN_BYTES_MAX:,} bytes, found more")
        header = _header(text)
        algorithm, kid = header.get("alg"), header.get("kid", "")
        if not isinstance(algorithm, str) or algorithm not in self.rules.algorithms:
            _refuse("the token is signed with an algorithm that this server does not accept")
        if not isinstance(kid, str) or str(header.get("typ", "")).lower() not in _TYPES or "crit" in header:
            _refuse("expected an access token with a simple header, found another kind")
        for key in self._fitting(kid, algorithm)[:TRIED_MAX]:
            with suppress(BadSignatureError):
                claims = _payload(text, key, algorithm)
                break
        else:
            _refuse("the signature of the token is not one of its issuer")
        return self._claimed(claims)

    def _fitting(self, kid: str, algorithm: str) -> list[Key]:
        """Return the keys that may have signed. Raises Aborted if there are none."""
        kind, known = ALGORITHMS[algorithm], False
        found = []
        for own, kty, only, key in self._keys or ():
            known = known or own == kid
            if (not kid or own == kid) and kty == kind and only in ("", algorithm):
                found.append(key)
        if not found and not known and self._want():
            _unavailable("the key of this token is being looked up at its issuer")
        if not found:
            _refuse("the token is signed with a key that its issuer does not publish for that algorithm")
        return found

    def _claimed(self, claims: dict[str, Any]) -> Identity:
        rules, now = self.rules, time.time()
        audience = claims.get("aud")
        if claims.get("iss") != rules.issuer:
            _refuse("the token is of another issuer")
        if rules.audience not in (audience if isinstance(audience, list) else [audience]):
            _refuse("the token is for another audience")
        ends, begins, made = (_time(claims, name) for name in ("exp", "nbf", "iat"))
        if ends is None:
            _refuse("expected a token that ends (exp), found none")
        if now >= ends + rules.leeway_s:
            _refuse("the token has expired; send a new one")
        if max(begins or 0, made or 0) > now + rules.leeway_s:
            _refuse("the token is not valid yet; compare the clocks of the issuer and of this server")
        name = claims.get(rules.name_claim)
        try:
            name = check_name(
                f"{rules.name_prefix}{name}" if isinstance(name, str) and name else None, "a name"
            )
        except RowError:
            _refuse(
                f"expected a token with a name in the claim {rules.name_claim}, found none that can be used"
            )
        if rules.name_claim == "email" and claims.get("email_verified", True) is not True:
            _refuse("the email of the token is not verified")
        return Identity(Actor(name, Proof.JWT), None, self._roles(claims), int((ends + rules.leeway_s) * 1e9))

    def _roles(self, claims: dict[str, Any]) -> tuple[str, ...]:
        found = claims.get(self.rules.roles_claim) if self.rules.roles_claim else None
        groups = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
        roles = (self.rules.roles.get(group, ()) for group in groups if isinstance(group, str))
        return tuple(dict.fromkeys(role for some in roles for role in some))

    # keys

    async def keep(self) -> None:
        """Keep the keys current, until the task is cancelled."""
        while True:
            pause = AGAIN_S if self._failed else REFRESH_S
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            self._wanted.clear()
            await self.refresh()

    async def refresh(self) -> None:
        """Read the keys. A failure is logged, and leaves the previous ones in use."""
        self._tried_s, rules = time.monotonic(), self.rules
        try:
            keys, source = await asyncio.to_thread(_read_keys, rules)
        except OpenError as error:
            self._failed = True
            logger.warning("the keys of JWTs cannot be read: %s", error, extra=about("jwt.keys"))
            return
        if rules is not self.rules:  # replaced meanwhile: they are read again at once
            return
        self._failed, self._read_s = False, time.monotonic()
        if source != self._source:
            self._keys, self._source = keys, source
            self._known.clear()
            self.generation += 1

    def _want(self) -> bool:
        """Ask for the keys; return whether an answer is expected soon."""
        if time.monotonic() - self._tried_s >= AGAIN_S:
            self._wanted.set()
        return self._wanted.is_set() or self._failed


def is_jwt(text: str) -> bool:
    """Return whether a token looks like a JWT."""
    return text.startswith("eyJ") and text.count(".") == 2


def _refuse(why: str) -> NoReturn:
    raise Aborted(grpc.StatusCode.UNAUTHENTICATED, why)


def _unavailable(why: str) -> NoReturn:
    raise Aborted(grpc.StatusCode.UNAVAILABLE, f"{why}; repeat the call")


def _header(text: str) -> dict[str, Any]:
    """Return the header of a token, which nothing has verified."""
    try:
        if not _SHAPE.fullmatch(text) or text.index(".") > HEADER_BYTES_MAX:
            raise ValueError
        found = jws.extract_compact(text.encode(), registry=_registry()).headers()
    except (JoseError, ValueError, RecursionError):
        _refuse("expected a JSON Web Token, found other text")
    return found


def _payload(text: str, key: Key, algorithm: str) -> dict[str, Any]:
    """Return the claims. Raises BadSignatureError, Aborted."""
    try:
        signed = jws.deserialize_compact(text.encode(), key, [algorithm], _registry([algorithm]))
        claims = json.loads(signed.payload)
    except BadSignatureError:
        raise
    except (JoseError, ValueError, RecursionError):
        _refuse("expected a JSON Web Token with claims, found another one")
    if not isinstance(claims, dict):
        _refuse("expected a JSON Web Token with claims, found another one")
    return claims


def _registry(algorithms: list[str] | None = None) -> jws.JWSRegistry:
    found = jws.JWSRegistry(algorithms=algorithms, strict_check_header=False)
    found.max_header_length = HEADER_BYTES_MAX
    return found


def _time(claims: dict[str, Any], name: str) -> float | None:
    found = claims.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found < 1 << 33:
        _refuse(f"expected a time in the claim {name}, found another value")
    return float(found)


def check_rules(rules: Jwt) -> None:
    """Raise OpenError for rules that are invalid or unsafe, and without joserfc."""
    if find_spec("joserfc") is None:
        raise OpenError("--jwt-issuer needs the library joserfc; pip install 'everlog[oidc]'")
    check_url(rules.issuer, "--jwt-issuer")
    if "://" in rules.jwks:
        check_url(rules.jwks, "--jwt-jwks")
    if not rules.audience:
        raise OpenError("expected the audience of the tokens (--jwt-audience), found none")
    for one in rules.algorithms:
        if one not in ALGORITHMS:
            raise OpenError(f"expected algorithms of {', '.join(ALGORITHMS)}, found {one!r}")
    if not rules.algorithms:
        raise OpenError(f"expected algorithms of {', '.join(ALGORITHMS)}, found none")
    if not 0 <= rules.leeway_s <= LEEWAY_S_MAX:
        raise OpenError(f"expected a leeway of 0 to {LEEWAY_S_MAX:.0f} s, found {rules.leeway_s}")
    if bool(rules.roles) != bool(rules.roles_claim):
        raise OpenError("expected --jwt-roles-claim together with --jwt-role, found only one of them")


def check_url(url: str, what: str) -> None:
    """Raise OpenError for a URL that others could answer."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        raise OpenError(f"{what}: expected a URL with https://, found an invalid one") from None
    plain = parts.scheme == "http" and is_loopback(host)
    if not host or parts.username is not None or not (parts.scheme == "https" or plain):
        raise OpenError(f"{what}: expected a URL with https://, without a password, found another one")


def _read_keys(rules: Jwt) -> tuple[list[tuple[str, str, str, Key]], str]:
    """Return the keys of the issuer, and their source. Raises OpenError."""
    url = rules.jwks
    if not url:
        at = f"{rules.issuer.rstrip('/')}/.well-known/openid-configuration"
        found = _object(_get(at), at)
        url = found.get("jwks_uri", "")
        if found.get("issuer") != rules.issuer or not isinstance(url, str):
            raise OpenError(f"{at}: expected the metadata of {rules.issuer}, found those of another issuer")
        check_url(url, f"{at}: jwks_uri")
    raw = _get(url) if "://" in url else read_file(Path(url), "the keys of the issuer")
    listed = _object(raw, url).get("keys")
    if not isinstance(listed, list) or len(listed) > KEYS_MAX:
        raise OpenError(f"{url}: expected a JWKS of at most {KEYS_MAX} keys, found something else")
    keys = [key for one in listed if isinstance(one, dict) and (key := _key(one)) is not None]
    if not keys:
        raise OpenError(f"{url}: expected at least one key that can verify signatures, found none")
    return keys, json.dumps(listed, sort_keys=True)


def _key(one: dict[str, Any]) -> tuple[str, str, str, Key] | None:
    """Return a key that verifies signatures; None for others: symmetric, weak, private, or for encryption."""
    kid, kty, only = (one.get(name, "") for name in ("kid", "kty", "alg"))
    if kty not in ("RSA", "EC", "OKP") or one.get("use", "sig") != "sig" or "d" in one:
        return None
    if not isinstance(kid, str) or not isinstance(only, str):
        return None
    try:
        if kty == "RSA" and _bits(one["n"]) < RSA_BITS_MIN:
            return None
        key = import_key(one)
        if not isinstance(key, (RSAKey, ECKey, OKPKey)):
            return None
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return kid, kty, only, key


def _bits(number: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(f"{number}==")).bit_length()


def _object(raw: bytes, url: str) -> dict[str, Any]:
    try:
        if len(raw) > JWKS_BYTES_MAX:
            raise ValueError
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise OpenError(
            f"{url}: expected a JSON object of at most {JWKS_BYTES_MAX:,} bytes, found other content"
        )
    return found


class _Stay(HTTPRedirectHandler):
    """Follows no redirect: another host would name the keys."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str) -> bytes:
    """Return what a URL answers, at most JWKS_BYTES_MAX bytes and one. Raises OpenError."""
    until, found = time.monotonic() + FETCH_S, b""
    request = Request(url, headers={"accept": "application/json"})  # noqa: S310  checked by check_url
    try:
        with build_opener(_Stay).open(request, timeout=FETCH_S) as answer:
            while len(found) <= JWKS_BYTES_MAX and (part := answer.read1(65_536)):
                found += part
                if time.monotonic() > until:
                    raise TimeoutError(f"it took longer than {FETCH_S:.0f} s")
    except HTTPError as error:
        error.close()
        raise OpenError(f"{url}: expected an answer with status 200, found {error.code}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise OpenError(f"{url}: cannot be read: {getattr(error, 'reason', None) or error}") from None
    return found
