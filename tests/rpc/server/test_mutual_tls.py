"""Mutual TLS: a client presents a certificate, which identifies it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import everlog
from everlog.proto import log_pb2
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.security import Tls
from everlog.rpc.server.server import Server
from tests.conformance.database_case import AIRPORTS, Airport
from tests.rpc.certificates import Authority

JFK = Airport(faa="JFK", name="Kennedy")
Proof = log_pb2.Commit.Proof


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def server(db: EmbeddedDatabase, authority: Authority) -> Iterator[Server]:
    tls = Tls(*authority.sign("server"), client_ca=authority.path)
    for name in ("ann", "web"):
        db.access.grant(name, "writer")
        db.access.grant(name, "follower")
    with Server({"x": db}, tls=tls, acting=["web"]) as server:
        yield server


def url(server: Server, authority: Authority, *files: Path) -> str:
    shown = f"&cert={files[0]}&key={files[1]}" if files else ""
    return f"everlog://localhost:{server.port}/x?ca={authority.path}{shown}"


def test_a_client_shows_the_certificate_of_its_url_or_of_the_environment(
    server: Server, authority: Authority, db: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = authority.sign("ann")
    with RemoteDatabase(url(server, authority, *files)) as ann:
        ann.put(AIRPORTS, JFK)
        assert [row.faa for row in ann.scan(AIRPORTS)] == ["JFK"]
        assert [commit.actor for commit in ann.feed(bounded=True)][-1] == "ann"
    monkeypatch.setenv("EVERLOG_CERT", str(files[0]))
    monkeypatch.setenv("EVERLOG_KEY", str(files[1]))
    with RemoteDatabase(url(server, authority)) as ann:
        ann.load(AIRPORTS, [JFK])
    newest = db.log.commit(db.head)
    assert (newest.actor, newest.proof) == ("ann", Proof.CERTIFICATE)


def test_whoever_shows_none_or_one_of_another_authority_is_refused(
    server: Server, authority: Authority, db: EmbeddedDatabase, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    for files in ((), other.sign("ann")):
        with pytest.raises(everlog.UnavailableError):
            RemoteDatabase(url(server, authority, *files), connect_s=0.2)
    assert db.log.commit(db.head).actor == ""


def test_the_name_of_a_certificate_is_proven_and_no_other_is_taken_but_of_who_acts_for_others(
    server: Server, authority: Authority, db: EmbeddedDatabase
) -> None:
    with RemoteDatabase(url(server, authority, *authority.sign("ann"))) as ann:
        said = "names bob as actor, its certificate is that of ann"
        with pytest.raises(everlog.AccessError, match=said):
            ann.put(AIRPORTS, JFK, actor="bob")
    with RemoteDatabase(url(server, authority, *authority.sign("web"))) as web:
        web.put(AIRPORTS, JFK, actor="bob")
        assert [entry.proof for entry in web.past.log(actor="bob")] == ["delegated"]
        assert [version.proof for version in web.history(AIRPORTS, "JFK")] == ["delegated"]
    assert [entry.proof for entry in db.past.log(actor="bob")] == ["delegated"]


def test_files_that_are_none_are_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.sign("ann")
    _, others = authority.sign("bob")
    (tmp_path / "text.pem").write_text("nothing")
    text = tmp_path / "text.pem"
    at = "everlog://localhost:1/x"
    for words, says in (
        (f"cert={certificate}", "found only the certificate; name the key as well"),
        (f"key={key}", "found only the key; name the certificate as well"),
        (f"cert={certificate}&key={others}", "expected a certificate and its key .* KEY_VALUES_MISMATCH"),
        (f"cert={text}&key={key}", r"text\.pem: expected a certificate and its key"),
        (f"cert={certificate}&key={tmp_path}/gone.key", r"gone\.key: expected a PEM file"),
        (f"ca={text}", r"text\.pem: expected the certificate of an authority"),
    ):
        with pytest.raises(everlog.OpenError, match=says):
            RemoteDatabase(f"{at}?{words}", connect_s=0)
    with pytest.raises(everlog.OpenError, match="cert, key in the URL would have no effect"):
        RemoteDatabase(f"everlog+insecure://localhost:1/x?cert={certificate}&key={key}", connect_s=0)
