"""Mutual TLS: a client presents a certificate, which identifies it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

import everlog
from everlog.proto import log_pb2
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.security import Tls
from everlog.rpc.server import server as serving
from everlog.rpc.server.server import Server
from everlog.store.program_log import about_of
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


def test_a_client_without_tls_reads_that_the_server_requires_it(server: Server) -> None:
    with pytest.raises(everlog.UnavailableError, match=r"it requires TLS; use everlog:// instead of"):
        RemoteDatabase(f"everlog+insecure://127.0.0.1:{server.port}/x", connect_s=0.2)


def test_whoever_shows_none_or_one_of_another_authority_is_refused(
    server: Server, authority: Authority, db: EmbeddedDatabase, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    said = set()
    for files in ((), other.sign("ann"), (), (), ()):
        # As localhost, gRPC may report its attempt by IPv6 instead.
        address = url(server, authority, *files).replace("localhost", "127.0.0.1")
        with pytest.raises(everlog.UnavailableError) as refused:
            RemoteDatabase(address, connect_s=0.2)
        said.add("whether it requires a client certificate (?cert=FILE&key=FILE" in str(refused.value))
    assert True in said
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
        (f"cert={certificate}&key={tmp_path}/gone.key", r"gone\.key: the key in PEM cannot be read"),
        (f"ca={text}", r"text\.pem: expected the certificate of an authority"),
    ):
        with pytest.raises(everlog.OpenError, match=says):
            RemoteDatabase(f"{at}?{words}", connect_s=0)
    with pytest.raises(everlog.OpenError, match="cert, key in the URL would have no effect"):
        RemoteDatabase(f"everlog+insecure://localhost:1/x?cert={certificate}&key={key}", connect_s=0)


@pytest.mark.parametrize(
    ("kinds", "names", "expected"),
    [
        (("uri",), [x509.UniformResourceIdentifier("spiffe://acme/web")], "spiffe://acme/web"),
        (("email", "cn"), [x509.RFC822Name("ann@example.com")], "ann@example.com"),
        (("uri", "dns"), [x509.DNSName("web.example.com")], "web.example.com"),
        (("email", "cn"), [], "ann"),
        (("uri",), [], ""),
        (("dns",), [x509.DNSName("a.example.com"), x509.DNSName("b.example.com")], ""),
        (("dns", "cn"), [x509.DNSName("a.example.com"), x509.DNSName("b.example.com")], ""),
    ],
)
def test_the_configured_kind_of_name_is_the_actor_and_two_of_a_kind_are_none(
    db: EmbeddedDatabase,
    authority: Authority,
    kinds: tuple[str, ...],
    names: list[x509.GeneralName],
    expected: str,
) -> None:
    for name in ("ann", "spiffe://acme/web", "ann@example.com", "web.example.com", "a.example.com"):
        db.access.grant(name, "writer")
    head = db.head
    tls = Tls(*authority.sign("server"), client_ca=authority.path, client_names=kinds)
    ann = authority.sign("ann", names=names)
    with Server({"x": db}, tls=tls) as server:
        if expected:
            with RemoteDatabase(url(server, authority, *ann)) as remote:
                remote.put(AIRPORTS, JFK)
            assert db.log.commit(db.head).actor == expected
        else:
            with pytest.raises(everlog.UnavailableError, match="expected a token, found none"):
                RemoteDatabase(url(server, authority, *ann), connect_s=60, retry_s=0.0)
            assert db.head == head
    with pytest.raises(everlog.OpenError, match="in cn, uri, dns, email, found 'upn'"):
        Server({"x": db}, tls=tls._replace(client_names=("upn",)))


def test_a_certificate_that_ends_under_way_ends_its_streams_and_its_connection(
    db: EmbeddedDatabase, authority: Authority
) -> None:
    db.access.grant("ann", "owner")
    tls = Tls(*authority.sign("server"), client_ca=authority.path)
    with Server({"x": db}, tls=tls) as server:
        for lifetime_s in (2, 10, 60):  # a slow machine needs more
            ann = authority.sign("ann", days=lifetime_s / 86_400)
            try:
                remote = RemoteDatabase(url(server, authority, *ann), retry_s=0.0)
                feed = iter(remote.feed(after=db.head))
            except everlog.UnavailableError:
                continue
            with remote:
                with pytest.raises(everlog.UnavailableError, match="the certificate of the client has ended"):
                    next(feed)
                head = db.head
                with pytest.raises(everlog.UnavailableError):
                    remote.put(AIRPORTS, JFK)
                assert db.head == head
                while any(one.streams for one in list(server.connections)):
                    pass  # the server notices it a little later than the client
                return
    pytest.fail("the stream did not begin")


def test_a_revoked_certificate_is_refused_from_the_moment_its_list_is_there(
    db: EmbeddedDatabase, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "FILES_S", 0.01)
    for name in ("ann", "bob"):
        db.access.grant(name, "writer")
    ann, bob = authority.sign("ann"), authority.sign("bob")
    tls = Tls(*authority.sign("server"), client_ca=authority.path, client_crl=authority.revoke(bob[0]))
    with Server({"x": db}, tls=tls) as server:
        with RemoteDatabase(url(server, authority, *ann)) as remote:
            remote.put(AIRPORTS, JFK)
        with pytest.raises(everlog.UnavailableError):
            RemoteDatabase(url(server, authority, *bob), connect_s=0.5)
        authority.revoke(ann[0])
        accepted = True
        while accepted:  # the server looks at its files
            try:
                RemoteDatabase(url(server, authority, *ann), connect_s=0.5, retry_s=0.0).close()
            except everlog.UnavailableError:
                accepted = False
        with RemoteDatabase(url(server, authority, *bob)) as remote:
            remote.put(AIRPORTS, JFK)


def test_certificates_are_loaded_when_they_change_and_broken_ones_are_logged_once(
    db: EmbeddedDatabase,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(serving, "FILES_S", 0.01)
    db.access.grant("ann", "writer")
    tls = Tls(*authority.sign("server"), client_ca=authority.path)
    ann, new = authority.sign("ann"), Authority(tmp_path, "new")

    def lines(event: str) -> int:
        return len([one for one in caplog.records if about_of(one).event == event])

    with caplog.at_level("INFO"), Server({"x": db}, tls=tls) as server:
        tls = server.tls_files or tls
        half = tmp_path / "half"
        half.write_text("half of a certifi")
        half.replace(tls.certificate)  # at once: an empty file would be a change of its own
        while not lines("certificate.unusable"):
            pass
        with RemoteDatabase(url(server, authority, *ann)) as remote:
            remote.put(AIRPORTS, JFK)
        for _ in range(10):  # meanwhile it looks again
            with RemoteDatabase(url(server, authority, *ann)) as remote:
                remote.get(AIRPORTS, "JFK")
        assert lines("certificate.unusable") == 1
        new.sign("server")
        while not lines("certificate.reloaded"):
            pass
        with pytest.raises(everlog.UnavailableError):
            RemoteDatabase(url(server, authority, *ann), connect_s=0.5)
        with RemoteDatabase(
            f"everlog://localhost:{server.port}/x?ca={new.path}&cert={ann[0]}&key={ann[1]}"
        ) as remote:
            assert remote.get(AIRPORTS, "JFK") == JFK
