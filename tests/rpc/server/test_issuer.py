"""Issuer: tokens over a real socket, of an issuer with real keys: accepted, refused, rotated, ended."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from joserfc import jwt
from joserfc.jwk import RSAKey

from everlog import AccessError, OpenError, UnavailableError
from everlog.proto import log_pb2
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server import issuer as issuing
from everlog.rpc.server.issuer import Issuer, Jwt
from everlog.rpc.server.server import Server
from tests.conformance.database_case import AIRPORTS, Airport
from tests.rpc.certificates import Authority
from tests.rpc.issuing import AUDIENCE, TestIssuer

JFK = Airport(faa="JFK", name="Kennedy")
Proof = log_pb2.Commit.Proof


@pytest.fixture
def issuer() -> Iterator[TestIssuer]:
    with TestIssuer() as found:
        yield found


@pytest.fixture
def owned(db: EmbeddedDatabase) -> EmbeddedDatabase:
    db.access.grant("ann", "owner")
    return db


def rules(issuer: TestIssuer, **more: Any) -> Jwt:
    return Jwt(issuer.url, AUDIENCE, **more)


def at(server: Server, token: str) -> RemoteDatabase:
    return RemoteDatabase(f"{server.url('x')}?token={token}", retry_s=0.0, connect_s=2)


def refused(server: Server, token: str) -> str:
    """Return why a token is refused, after checking that nothing of it is in the message."""
    with pytest.raises(UnavailableError) as caught, at(server, token) as remote:
        remote.get(AIRPORTS, "JFK")
    text = str(caught.value)
    assert not [part for part in token.split(".") if len(part) > 8 and part in text]
    return text


@pytest.mark.parametrize(
    ("kind", "alg"), [("RSA", "RS256"), ("RSA", "PS256"), ("EC", "ES256"), ("OKP", "Ed25519")]
)
def test_the_name_in_a_token_is_the_actor_of_its_commits(
    owned: EmbeddedDatabase, issuer: TestIssuer, kind: str, alg: str
) -> None:
    issuer.add("two", kind)
    with (
        Server({"x": owned}, jwt=rules(issuer)) as server,
        at(server, issuer.token(kid="two", alg=alg)) as ann,
    ):
        ann.put(AIRPORTS, JFK)
        with pytest.raises(AccessError, match="names bob as actor"):
            ann.put(AIRPORTS, JFK, actor="bob")
    newest = owned.log.commit(owned.head)
    assert (newest.actor, newest.proof) == ("ann", Proof.JWT)
    assert [entry.proof for entry in owned.past.log(actor="ann")] == ["jwt"]


def forged(issuer: TestIssuer, header: dict[str, Any], signature: bytes = b"") -> str:
    claims = issuer.token().split(".")[1]
    first = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    return f"{first}.{claims}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def signed_by_the_public_key(issuer: TestIssuer) -> str:
    """Return a token with an HMAC whose secret is the public key, as PEM."""
    key = issuer.keys["one"]
    assert isinstance(key, RSAKey)
    text = forged(issuer, {"alg": "HS256", "kid": "one"})
    mac = hmac.digest(key.as_pem(private=False), text.rstrip(".").encode(), "sha256")
    return text + base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def test_tokens_that_are_not_as_they_must_be_are_refused_in_a_sentence(
    owned: EmbeddedDatabase, issuer: TestIssuer
) -> None:
    now, head = int(time.time()), owned.head
    other = RSAKey.generate_key(2048)
    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "ann", "exp": now + 60}
    confused = signed_by_the_public_key(issuer)
    stolen = issuer.token().split(".")
    changed = base64.urlsafe_b64encode(json.dumps(claims | {"sub": "bob"}).encode()).rstrip(b"=").decode()
    cases = {
        "is of another issuer": [
            issuer.token(iss=f"{issuer.url}/"),
            issuer.token(iss=None),
            issuer.token(iss=7),
        ],
        "is for another audience": [
            issuer.token(aud="other"),
            issuer.token(aud=None),
            issuer.token(aud=[]),
            issuer.token(aud={AUDIENCE: 1}),
            issuer.token(aud=AUDIENCE + "2"),
        ],
        "has expired": [issuer.token(exp=now - 31), issuer.token(exp=0)],
        "expected a token that ends": [issuer.token(exp=None)],
        "expected a time in the claim": [
            issuer.token(exp="tomorrow"),
            issuer.token(exp=True),
            issuer.token(exp=10**400),
            issuer.token(exp=float("nan")),
            issuer.token(nbf=[]),
        ],
        "is not valid yet": [issuer.token(nbf=now + 3600), issuer.token(iat=now + 3600)],
        "does not accept": [
            forged(issuer, {"alg": "none"}),
            forged(issuer, {"alg": "None", "kid": "one"}),
            forged(issuer, {"alg": ["RS256"]}),
            confused,
            issuer.token(alg="RS512"),
        ],
        "does not publish for that algorithm": [forged(issuer, {"alg": "ES256", "kid": "one"}, b"0" * 64)],
        "is not one of its issuer": [
            jwt.encode({"alg": "RS256", "kid": "one"}, claims, other, algorithms=["RS256"]),
            ".".join((stolen[0], changed, stolen[2])),
            forged(issuer, {"alg": "RS256", "kid": "one"}),
        ],
        "expected an access token with a simple header": [
            issuer.token(typ="logout+jwt"),
            forged(issuer, {"alg": "RS256", "crit": ["b64"], "b64": False}),
            forged(issuer, {"alg": "RS256", "kid": 7}),
        ],
        "expected a token with a name in the claim sub": [
            issuer.token(sub=None),
            issuer.token(""),
            issuer.token(sub=["ann"]),
            issuer.token("ann\nowner"),
            issuer.token("a" * 5000),
        ],
        "expected a JSON Web Token, found other text": [
            forged(issuer, {"kid": "one"}),
            "eyJ..",
            "eyJ.e30.x",
            "eyJ" + "W" * 6000 + ".e30.x",
        ],
        "expected a token of at most": ["eyJ" + "a" * 12_500 + ".e30.x"],
        "found another one": ["sesame", "a.b.c", issuer.token() + ".x"],
    }
    with Server({"x": owned}, jwt=rules(issuer)) as server:
        for says, tokens in cases.items():
            for token in tokens:
                assert says in refused(server, token), says
        with pytest.raises(UnavailableError, match="expected a token of this server, found none"):
            RemoteDatabase(server.url("x"), retry_s=0.0, connect_s=2)
        now = int(time.time())
        good: dict[str, Any]
        for good in ({"exp": now - 10}, {"nbf": now + 10}, {"aud": ["a", AUDIENCE]}):
            with at(server, issuer.token(**good)) as ann:
                assert ann.get(AIRPORTS, "JFK") is None
    assert owned.head == head


def test_a_rotated_key_is_looked_up_once_in_a_while_and_a_withdrawn_one_ends(
    owned: EmbeddedDatabase, issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server({"x": owned}, jwt=rules(issuer)) as server:
        with at(server, issuer.token()) as ann:
            ann.put(AIRPORTS, JFK)
        asked = issuer.asked
        issuer.add("two")
        for _ in range(20):  # within AGAIN_S
            assert "does not publish" in refused(server, issuer.token(kid="two"))
        assert issuer.asked == asked == 1
        monkeypatch.setattr(issuing, "AGAIN_S", 0.0)
        token = issuer.token(kid="two")
        with RemoteDatabase(f"{server.url('x')}?token={token}") as ann:  # a client repeats the call
            ann.put(AIRPORTS, JFK)
            feed = iter(ann.feed(after=owned.head))
            issuer.add("three")
            del issuer.published["two"]
            with RemoteDatabase(f"{server.url('x')}?token={issuer.token(kid='three')}") as other:
                other.get(AIRPORTS, "JFK")
            monkeypatch.setattr(issuing, "AGAIN_S", 3600.0)
            with pytest.raises(UnavailableError, match="does not publish"):
                next(feed)
        assert "does not publish" in refused(server, token)


def test_a_stream_ends_with_its_token(owned: EmbeddedDatabase, issuer: TestIssuer) -> None:
    with Server({"x": owned}, jwt=rules(issuer, leeway_s=0.0)) as server:
        for lifetime_s in (2, 10, 60):  # a slow machine needs more
            try:
                ann = at(server, issuer.token(exp=int(time.time()) + lifetime_s))
                feed = iter(ann.feed(after=owned.head))
            except UnavailableError:
                continue
            with ann:
                with pytest.raises(UnavailableError, match="has expired"):
                    next(feed)
                with pytest.raises(UnavailableError, match="has expired"):
                    ann.put(AIRPORTS, JFK)
                return
    pytest.fail("the stream did not begin")


def test_keys_that_cannot_be_read_are_unavailable_and_old_ones_serve_for_a_while(
    owned: EmbeddedDatabase,
    issuer: TestIssuer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    issuer.status = 503
    monkeypatch.setattr(issuing, "AGAIN_S", 0.01)
    with Server({"x": owned}, jwt=rules(issuer)) as server:
        assert "no current keys of the issuer" in refused(server, issuer.token())
        issuer.status = 200
        with RemoteDatabase(f"{server.url('x')}?token={issuer.token()}") as ann:
            ann.put(AIRPORTS, JFK)
        issuer.status = 503
        monkeypatch.setattr(issuing, "REFRESH_S", 0.0)
        with at(server, issuer.token("ann")) as ann:
            ann.put(AIRPORTS, JFK)
        monkeypatch.setattr(issuing, "STALE_S", 0.0)
        assert "no current keys of the issuer" in refused(server, issuer.token())
    assert "the keys of JWTs cannot be read" in caplog.text
    assert "found 503" in caplog.text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "http://127.0.0.1:1"}, "found those of another issuer"),
        ({"status": 302}, "found 302"),
        ({"body": b"[" * 200_000}, "expected a JSON object"),
        ({"body": b" " * 300_000}, "expected a JSON object of at most 262,144 bytes"),
        ({"body": b'{"keys": []}'}, "at least one key"),
        ({"body": b'{"keys": 7}'}, "expected a JWKS"),
        ({"body": b'{"keys": [{"kty": "oct", "k": "c2VzYW1l", "kid": "one"}]}'}, "at least one key"),
    ],
)
def test_answers_of_an_issuer_that_are_none_give_no_keys(
    owned: EmbeddedDatabase,
    issuer: TestIssuer,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, Any],
    says: str,
) -> None:
    for name, value in change.items():
        setattr(issuer, name, value)
    with Server({"x": owned}, jwt=rules(issuer)) as server:
        assert "no current keys" in refused(server, issuer.token())
    assert says in caplog.text


def test_weak_private_and_symmetric_keys_verify_nothing(owned: EmbeddedDatabase, issuer: TestIssuer) -> None:
    with pytest.warns(match="RSA|size"):
        issuer.keys["weak"] = RSAKey.generate_key(1024)
    issuer.keys["private"] = RSAKey.generate_key(2048)
    issuer.extra = [
        issuer.keys["weak"].as_dict(private=False) | {"kid": "weak"},
        issuer.keys["private"].as_dict(private=True) | {"kid": "private"},
        issuer.keys["one"].as_dict(private=False) | {"kid": "sealing", "use": "enc"},
        issuer.keys["one"].as_dict(private=False) | {"kid": "other", "alg": "PS256"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": ["RSA"], "kid": "odd"},
    ]
    issuer.keys |= dict.fromkeys(("sealing", "other"), issuer.keys["one"])
    with Server({"x": owned}, jwt=rules(issuer)) as server:
        for kid in ("weak", "private", "sealing", "other"):
            assert "does not publish" in refused(server, issuer.token(kid=kid))
        with at(server, issuer.token(kid="other", alg="PS256")) as ann:
            ann.put(AIRPORTS, JFK)


def test_keys_of_a_file_need_no_issuer(owned: EmbeddedDatabase, issuer: TestIssuer, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(issuer.jwks()))
    with (
        Server({"x": owned}, jwt=rules(issuer, jwks=str(path))) as server,
        at(server, issuer.token(kid=None)) as ann,
    ):
        ann.put(AIRPORTS, JFK)
    assert issuer.asked == 0


def test_roles_come_from_mapped_groups_else_from_the_log(db: EmbeddedDatabase, issuer: TestIssuer) -> None:
    db.access.grant("idp:bob", "reader")
    mapped = rules(issuer, roles_claim="groups", roles={"admins": ("writer", "reader")}, name_prefix="idp:")
    with Server({"x": db}, jwt=mapped, tokens={"carl": "sesame"}) as server:
        with at(server, issuer.token("ann", groups=["staff", "admins"])) as ann:
            ann.put(AIRPORTS, JFK)
        assert db.log.commit(db.head).actor == "idp:ann"
        with at(server, issuer.token("bob", groups=["staff", 7])) as bob:
            assert bob.get(AIRPORTS, "JFK") is not None
            with pytest.raises(AccessError, match="lacks the right write"):
                bob.put(AIRPORTS, JFK)
        with pytest.raises(AccessError, match="has no rights"), at(server, issuer.token("eve")) as eve:
            eve.get(AIRPORTS, "JFK")


def test_names_of_the_servers_tokens_are_not_taken(db: EmbeddedDatabase, issuer: TestIssuer) -> None:
    with Server({"x": db}, jwt=rules(issuer), tokens={"ann": "sesame"}, roles={"ann": ["owner"]}) as server:
        assert "--jwt-name-prefix" in refused(server, issuer.token("ann"))


def test_an_email_must_be_verified(db: EmbeddedDatabase, issuer: TestIssuer) -> None:
    db.access.grant("ann@example.com", "reader")
    with Server({"x": db}, jwt=rules(issuer, name_claim="email")) as server:
        for verified in (False, "true", None):
            token = issuer.token(email="ann@example.com", email_verified=verified)
            if verified is not None:
                assert "is not verified" in refused(server, token)
            else:
                with at(server, token) as ann:
                    assert ann.get(AIRPORTS, "JFK") is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"issuer": "http://id.example.com"}, "--jwt-issuer: expected a URL with https://"),
        ({"issuer": "https://ann:sesame@id.example.com"}, "without a password"),
        ({"issuer": "file:///etc/passwd"}, "expected a URL with https://"),
        ({"issuer": "https://[::1"}, "found an invalid one"),
        ({"jwks": "http://id.example.com/keys"}, "--jwt-jwks: expected a URL"),
        ({"audience": ""}, "--jwt-audience"),
        ({"algorithms": ("none",)}, "found 'none'"),
        ({"algorithms": ("RS256", "HS256")}, "found 'HS256'"),
        ({"algorithms": ()}, "found none"),
        ({"leeway_s": 3600.0}, "expected a leeway of 0 to 300 s"),
        ({"roles_claim": "groups"}, "together with --jwt-role"),
    ],
)
def test_unsafe_rules_start_nothing(given: dict[str, Any], says: str) -> None:
    whole = {"issuer": "https://id.example.com", "audience": AUDIENCE} | given
    with pytest.raises(OpenError, match=says) as caught:
        Issuer(Jwt(**whole))
    assert "sesame" not in str(caught.value)


def test_keys_over_https_are_of_the_host_and_signed_by_an_authority(
    owned: EmbeddedDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    elsewhere = [x509.DNSName("elsewhere.example.com")]
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    for files, accepted in (
        (authority.sign("good"), True),
        (stranger.sign("forged"), False),
        (authority.sign("other host", file="other", names=elsewhere), False),
        (authority.sign("ended", days=-1), False),
    ):
        with TestIssuer(*files) as issuer, Server({"x": owned}, jwt=rules(issuer)) as server:
            assert issuer.url.startswith("https://")
            if accepted:
                with at(server, issuer.token()) as ann:
                    ann.put(AIRPORTS, JFK)
            else:
                assert "no current keys of the issuer" in refused(server, issuer.token())
                assert issuer.asked == 0


def test_other_rules_apply_at_once_also_to_running_streams(db: EmbeddedDatabase, issuer: TestIssuer) -> None:
    mapped = rules(issuer, roles_claim="groups", roles={"staff": ("follower", "reader")})
    token = issuer.token("bob", groups=["staff"])
    with TestIssuer() as other, Server({"x": db}, jwt=mapped) as server:
        with at(server, token) as bob:
            bob.get(AIRPORTS, "JFK")
            feed = iter(bob.feed(after=db.head))
            server.reload(jwt=mapped._replace(roles={"staff": ("reader",)}))
            with pytest.raises(AccessError, match="bob lacks the right feed"):
                list(feed)
            bob.get(AIRPORTS, "JFK")
            with pytest.raises(OpenError, match="expected the audience"):
                server.reload(jwt=mapped._replace(audience=""))
            bob.get(AIRPORTS, "JFK")
            server.reload(jwt=mapped._replace(audience="other"))
            assert "for another audience" in refused(server, token)
        moved = mapped._replace(issuer=other.url)
        server.reload(jwt=moved)
        with RemoteDatabase(
            f"{server.url('x')}?token={other.token('bob', groups=['staff'])}", retry_s=20
        ) as bob:
            bob.get(AIRPORTS, "JFK")
        assert "not one of its issuer" in refused(server, token)
    with (
        Server({"x": db}, token="sesame") as server,
        pytest.raises(OpenError, match="without an issuer of JWTs"),
    ):
        server.reload(token="sesame", jwt=mapped)
