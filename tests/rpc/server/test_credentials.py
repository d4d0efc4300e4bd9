"""Credentials: whose call it is that comes with a token, a JWT, a certificate, several of them, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from everlog import AccessError, UnavailableError
from everlog.proto import log_pb2
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.http2.grpc import Aborted, Call
from everlog.rpc.security import Identity, Tls, name_of
from everlog.rpc.server.issuer import Issuer, Jwt
from everlog.rpc.server.rights import Rights, Tokens
from everlog.rpc.server.server import DESCRIPTORS, Server
from everlog.store.errors import Error
from everlog.store.tx.transaction import proof_of
from tests.conformance.database_case import AIRPORTS, Airport
from tests.rpc.certificates import Authority
from tests.rpc.issuing import AUDIENCE, TestIssuer

PATH = "/everlog.v1.Store/Get"
REFUSED = "refused"
CALLERS = {
    "none": "",
    "unnamed token": "salt",
    "named token": "sesame",
    "unknown token": "pepper",
}
# What a call comes with ─▶ its name, the proof of it, and its roles in the database, by what the server has:
# tokens of its configuration, or of the log alone; an issuer; certificates. `cat` is the certificate's name.
ANN, ROOT, LOGGED, CAT, JOE = "ann token", "- owner", "eve token", "cat certificate", "joe jwt"
EXPECTED = {
    # (tokens of the configuration?, issuer?): token ─▶ without certificate, with one, with one without a name
    (True, True): {
        "none": (REFUSED, REFUSED, REFUSED),
        "unnamed token": (ROOT, ROOT, ROOT),
        "named token": (ANN, ANN, ANN),
        "token of the log": (LOGGED, LOGGED, LOGGED),
        "JWT": (JOE, JOE, JOE),
        "unknown token": (REFUSED, REFUSED, REFUSED),
        "expired JWT": (REFUSED, REFUSED, REFUSED),
    },
    (True, False): {
        "none": (REFUSED, REFUSED, REFUSED),
        "unnamed token": (ROOT, ROOT, ROOT),
        "named token": (ANN, ANN, ANN),
        "token of the log": (LOGGED, LOGGED, LOGGED),
        "JWT": (REFUSED, REFUSED, REFUSED),
        "unknown token": (REFUSED, REFUSED, REFUSED),
        "expired JWT": (REFUSED, REFUSED, REFUSED),
    },
    (False, True): {
        "none": (REFUSED, CAT, REFUSED),
        "unnamed token": (REFUSED, REFUSED, REFUSED),
        "named token": (REFUSED, REFUSED, REFUSED),
        "token of the log": (LOGGED, LOGGED, LOGGED),
        "JWT": (JOE, JOE, JOE),
        "unknown token": (REFUSED, REFUSED, REFUSED),
        "expired JWT": (REFUSED, REFUSED, REFUSED),
    },
    (False, False): {
        "none": (REFUSED, CAT, REFUSED),
        "unnamed token": (REFUSED, REFUSED, REFUSED),
        "named token": (REFUSED, REFUSED, REFUSED),
        "token of the log": (LOGGED, LOGGED, LOGGED),
        "JWT": (REFUSED, REFUSED, REFUSED),
        "unknown token": (REFUSED, REFUSED, REFUSED),
        "expired JWT": (REFUSED, REFUSED, REFUSED),
    },
}


@pytest.fixture(scope="module")
def issuer() -> Iterator[TestIssuer]:
    with TestIssuer() as found:
        yield found


def caller(rights: Rights, token: str, certified: str) -> str:
    """Return who a call is, as the expectations say it; also of a stream that is checked again later."""
    connection = SimpleNamespace(certified=certified, certified_until_ns=0)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    stream = SimpleNamespace(connection=connection, headers=headers, who="")
    call = Call(stream, "Store/Get")  # type: ignore[arg-type]
    try:
        rights.identify(call, PATH)
        who: Identity = rights.within(call.identity, "x")
        holder = rights.holder(who, "x")
    except (Aborted, Error):
        return REFUSED
    assert stream.who == call.identity.name
    roles = {one.role for one in holder.held}
    if not who.name:
        return f"- {','.join(sorted(roles))}"
    assert roles == {"reader"}, "what is granted to its own name"
    return f"{who.name} {log_pb2.Commit.Proof.Name(proof_of(who.name)).lower()}"


@pytest.mark.parametrize(("configured", "issued"), EXPECTED)
def test_a_token_alone_says_who_calls_and_a_certificate_only_without_one(
    db: EmbeddedDatabase, issuer: TestIssuer, configured: bool, issued: bool
) -> None:
    for name in ("ann", "cat", "eve", "joe"):
        db.access.grant(name, "reader")
    tokens = dict(CALLERS)
    tokens["token of the log"] = db.access.create_token("eve").text
    tokens["JWT"], tokens["expired JWT"] = issuer.token("joe"), issuer.token("joe", exp=1)
    known = {"": "salt", "ann": "sesame"} if configured else {}
    trusted = Issuer(Jwt(issuer.url, AUDIENCE))
    asyncio.run(trusted.refresh())
    certificates = (
        "",
        name_of({"subject": ((("commonName", "cat"),),)}),
        name_of({"subject": ()}),
    )
    found: dict[str, list[str]] = {token: [] for token in tokens}
    for certified, name in zip((False, True, True), certificates, strict=True):
        rights = Rights(
            {"x": db},
            Tokens(known, {}),
            DESCRIPTORS,
            certified=certified,
            issuer=trusted if issued else None,
        )
        try:
            for token, text in tokens.items():
                found[token].append(caller(rights, text, name))
        finally:
            rights.close()
    assert {token: tuple(who) for token, who in found.items()} == EXPECTED[configured, issued]


def test_a_certificate_lends_no_name_to_the_unnamed_token(db: EmbeddedDatabase, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.sign("cat")
    tls = Tls(*authority.sign("server"), client_ca=authority.path)
    db.access.grant("cat", "reader")
    shown = f"ca={authority.path}&cert={certificate}&key={key}"
    with Server({"x": db}, tls=tls, token="salt", tokens={"bob": "thyme"}) as server:
        url = f"everlog://localhost:{server.port}/x?{shown}"
        with RemoteDatabase(f"{url}&token=salt") as somebody:
            somebody.put(AIRPORTS, Airport(faa="JFK", name="Kennedy"))
            newest = db.log.commit(db.head)
            assert (newest.actor, newest.proof) == ("", log_pb2.Commit.CLAIMED)
            assert somebody.access.whoami().name == ""
        with pytest.raises(AccessError, match="bob has no rights"):  # `cat` may read
            RemoteDatabase(f"{url}&token=thyme", retry_s=0.0)
        for wrong in (url, f"{url}&token=pepper"):
            with pytest.raises(UnavailableError, match="expected a token of this server"):
                RemoteDatabase(wrong, connect_s=2, retry_s=0.0)
