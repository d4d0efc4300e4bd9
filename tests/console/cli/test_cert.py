"""cert dev: certificates for development, with which a server and a client then connect."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.security import Tls
from everlog.rpc.server.server import Server
from tests.console.conftest import Run


def test_a_server_and_a_client_connect_with_what_it_created(everlog: Run, here: Path) -> None:
    ended = everlog("cert", "dev", "--client", "ann", "--client", "bob")
    assert ended.code == 0
    certs = here / "certs"
    assert sorted(path.name for path in certs.iterdir()) == sorted(
        f"{name}.{kind}" for name in ("ca", "server", "ann", "bob") for kind in ("pem", "key")
    )
    assert {path.stat().st_mode & 0o777 for path in certs.glob("*.key")} == {0o600}
    assert certs.stat().st_mode & 0o777 == 0o700
    assert "PRIVATE" not in ended.out
    urls = [line.strip() for line in ended.out.splitlines() if line.startswith("  everlog://")]
    assert len(urls) == 2
    tls = Tls("certs/server.pem", "certs/server.key", "certs/ca.pem")
    with EmbeddedDatabase(here / "app.db") as db, Server({"app": db}, tls=tls) as server:
        db.access.grant("ann", "owner")
        db.access.grant("bob", "owner")
        for url, name in zip(urls, ("ann", "bob"), strict=True):
            for host in ("localhost", "127.0.0.1"):
                at = url.replace("localhost:7420", f"{host}:{server.port}")
                with RemoteDatabase(at) as remote:
                    remote.admin.set_production(True)
                    remote.admin.set_production(False)
            assert db.log.commit(db.head).actor == name


def test_nothing_is_overwritten_and_clients_are_added_to_an_authority(everlog: Run, here: Path) -> None:
    assert everlog("cert", "dev", "--days", 2).code == 0
    certs = here / "certs"
    before = {path: path.read_bytes() for path in certs.iterdir()}
    again = everlog("cert", "dev")
    assert (again.code, "name clients to add (--client)" in again.err) == (1, True)
    assert "dev.pem exists already" in everlog("cert", "dev", "--client", "new", "--client", "dev").err
    assert {path: path.read_bytes() for path in certs.iterdir()} == before
    assert everlog("cert", "dev", "--client", "ann", "--json").json == [
        {"certificate": "certs/ann.pem", "key": "certs/ann.key"}
    ]
    ann, top = (
        x509.load_pem_x509_certificate((certs / f"{name}.pem").read_bytes()) for name in ("ann", "ca")
    )
    ann.verify_directly_issued_by(top)
    assert ann.not_valid_after_utc == top.not_valid_after_utc, "none outlives its authority"
    assert top.not_valid_after_utc - datetime.now(UTC) < timedelta(days=2)
    assert {path: path.read_bytes() for path in before} == before


def test_names_and_hosts_that_are_none_change_nothing(everlog: Run, here: Path) -> None:
    for words, says in (
        (("--client", "../ann"), "expected the name of a client of letters"),
        (("--client", "server"), "expected another name of a client than server"),
        (("--client", ""), "expected the name of a client of letters"),
        (("--host", "a b"), "expected a host as a DNS name or an address, found 'a b'"),
        (("--host", "*.example.com"), "expected a host"),
    ):
        ended = everlog("cert", "dev", *words)
        assert ended.code == 1
        assert says in ended.err
    assert everlog("cert", "dev", "--days", 0).code == 2
    assert not (here / "certs").exists()


def test_the_key_of_an_authority_that_others_can_read_signs_nothing(everlog: Run, here: Path) -> None:
    assert everlog("cert", "dev").code == 0
    (here / "certs/ca.key").chmod(0o644)
    assert "can be read by others" in everlog("cert", "dev", "--client", "ann").err
    (here / "certs/ca.key").write_bytes((here / "certs/server.key").read_bytes())
    (here / "certs/ca.key").chmod(0o600)
    assert (
        "expected the key of certs/ca.pem, found another one" in everlog("cert", "dev", "--client", "ann").err
    )
    assert not (here / "certs/ann.pem").exists()
