"""Reloading: a server switches to new tokens and certificates while its connections continue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import everlog
from everlog.rpc import security
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.security import Tls
from everlog.rpc.server.server import Server
from tests.conformance.database_case import AIRPORTS, Airport
from tests.rpc.certificates import Authority

JFK = Airport(faa="JFK", name="Kennedy")


def test_other_tokens_are_those_of_the_next_calls(db: EmbeddedDatabase) -> None:
    roles = dict.fromkeys(("ann", "bob"), ("owner",))
    with Server({"x": db}, tokens={"ann": "sesame", "bob": "thyme"}, roles=roles) as server:
        url = server.url("x")
        with RemoteDatabase(f"{url}?token=sesame") as ann, RemoteDatabase(f"{url}?token=thyme") as bob:
            ended, goes_on = iter(ann.feed(after=db.head)), iter(bob.feed(after=db.head))
            bob.put(AIRPORTS, JFK)
            assert (next(ended).actor, next(goes_on).actor) == ("bob", "bob")
            server.reload(tokens={"ann": "basil", "bob": "thyme"}, roles=roles)
            with pytest.raises(
                everlog.UnavailableError, match="expected a token of this server, found another"
            ):
                next(ended)
            bob.put(AIRPORTS, JFK)
            assert next(goes_on).actor == "bob"
            with pytest.raises(everlog.UnavailableError, match="refuses the call"):
                ann.put(AIRPORTS, JFK)
        with RemoteDatabase(f"{url}?token=basil") as ann:
            ann.put(AIRPORTS, JFK)
        assert db.log.commit(db.head).actor == "ann"


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        ({"ann": "sesame", "bob": "sesame"}, "that of another"),
        ({}, "started with tokens, found none"),
        ({"bob": "thyme"}, "--acts-for-others: expected the name of a token"),
    ],
)
def test_tokens_that_are_wrong_leave_those_of_before(
    db: EmbeddedDatabase, tokens: dict[str, str], says: str
) -> None:
    roles = {"web": ("owner",)}
    with Server({"x": db}, tokens={"web": "sesame"}, roles=roles, acting=["web"]) as server:
        with pytest.raises(everlog.OpenError, match=says):
            server.reload(tokens=tokens)
        with RemoteDatabase(f"{server.url('x')}?token=sesame") as web:
            web.put(AIRPORTS, JFK, actor="ann")
        assert db.log.commit(db.head).actor == "ann"


def test_another_certificate_and_authority_are_those_of_the_next_connections(
    db: EmbeddedDatabase, tmp_path: Path
) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(old.path.read_bytes())
    tls = Tls(*old.sign("localhost", file="server"), client_ca=trusted)
    db.access.grant("ann", "writer")
    db.access.grant("bob", "writer")
    ann, bob = old.sign("ann"), new.sign("bob")
    with Server({"x": db}, tls=tls) as server:

        def url(authority: Authority, files: tuple[Path, Path]) -> str:
            at = f"everlog://localhost:{server.port}/x"
            return f"{at}?ca={authority.path}&cert={files[0]}&key={files[1]}"

        with RemoteDatabase(url(old, ann)) as before:
            before.put(AIRPORTS, JFK)
            (tmp_path / "server.pem").write_text("half of a certifi")
            with pytest.raises(everlog.OpenError, match=r"server\.pem: expected a certificate"):
                server.reload()
            with RemoteDatabase(url(old, ann)) as same:
                same.put(AIRPORTS, JFK)
            new.sign("localhost", file="server")
            trusted.write_bytes(new.path.read_bytes())
            server.reload()
            before.put(AIRPORTS, JFK)  # over the existing connection
            with RemoteDatabase(url(new, bob)) as after:
                after.put(AIRPORTS, JFK)
            assert db.log.commit(db.head).actor == "bob"
            for refused in (url(old, bob), url(new, ann)):
                with pytest.raises(everlog.UnavailableError):
                    RemoteDatabase(refused, connect_s=0.2)


def test_a_certificate_that_is_about_to_end_is_warned_of(
    db: EmbeddedDatabase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    for days, says in ((31, ""), (29, "in 29 days"), (-1, "ended on")):
        tls = Tls(*authority.sign("localhost", days=days))
        found = security.warnings(tls, datetime.now(UTC) + timedelta(minutes=1)).values()
        assert [says in sentence for sentence in found] == ([True] if says else [])
    tls = Tls(*authority.sign("localhost", days=3), client_ca=authority.path)
    assert len(security.warnings(tls, datetime.now(UTC) + timedelta(days=340))) == 2
    with Server({"x": db}, tls=tls):
        pass
    assert [record.message for record in caplog.records if "localhost.pem" in record.message]


def test_the_status_says_which_certificates_end_until_they_are_replaced(
    db: EmbeddedDatabase, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    tls = Tls(*authority.sign("localhost", days=3, file="server"))
    with (
        Server({"x": db}, tls=tls) as server,
        RemoteDatabase(f"everlog://localhost:{server.port}/x?ca={authority.path}") as remote,
    ):
        while not (warnings := remote.admin.status().warnings):
            pass  # it reads them once it serves
        assert len(warnings) == 1
        assert "server.pem" in warnings[0]
        assert "replace the file and send SIGHUP" in warnings[0]
        authority.sign("localhost", file="server")
        server.reload()
        assert remote.admin.status().warnings == []
    assert db.admin.status().warnings == []
