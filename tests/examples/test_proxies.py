"""HAProxy and nginx with the configurations of examples/operate: clients, loads and a follower."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from everlog.console.web.server import WebServer, own_server
from everlog.console.web.setup import Setup
from everlog.console.web.visitors import FAILURES
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.http2 import frames as http2
from everlog.rpc.server.endpoint import Endpoint
from everlog.rpc.server.health import Readiness
from everlog.rpc.server.server import Server
from everlog.store.errors import UnavailableError
from tests.console.web.visitor import Visitor
from tests.rpc.conftest import TLS
from tests.rpc.raw_client import RawClient
from tests.rpc.refusing import refuse
from tests.store.models import ITEMS, Item, declare

OPERATE = Path(__file__).parents[2] / "examples" / "operate"
TOKEN = "sesame"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Proxied:
    """A proxy's URLs of the database, with TLS and without."""

    def __init__(self, name: str, directory: Path, server: int, health: int, console: int = 1) -> None:
        self._tls, self._plain, self.web = free_port(), free_port(), free_port()
        self.tls = f"everlog://localhost:{self._tls}/x?ca={TLS.certificate}&token={TOKEN}"
        self.plain = f"everlog+insecure://127.0.0.1:{self._plain}/x?token={TOKEN}"
        ports = {"0.0.0.0:7420": self._tls, "127.0.0.1:7421": self._plain, "127.0.0.1:7430": server}
        ports |= {"0.0.0.0:7443": self.web, "127.0.0.1:7431": console}
        file = "haproxy.cfg" if name == "haproxy" else "nginx.conf"
        text = (OPERATE / file).read_text()
        for there, port in ports.items():
            assert text.count(there) >= 1
            text = text.replace(there, f"127.0.0.1:{port}")
        text = text.replace("port 7422", f"port {health}").replace("inter 2s", "inter 100ms")
        both = directory / "both.pem"
        both.write_text(Path(TLS.certificate).read_text() + Path(TLS.key).read_text())
        text = re.sub(r"/etc/\w+/everlog\.(pem|key)", str(both), text)
        text = re.sub(r"/(run|var/log)/[\w/]*?(\w+\.(pid|log))", rf"{directory}/\2", text)
        temporary = "".join(
            f"{one}_temp_path {directory}/{one};\n"
            for one in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = text.replace("http {\n", f"http {{\n{temporary}")
        self.config = directory / file
        self.config.write_text(text)
        program = shutil.which(name)
        assert program is not None
        if name == "haproxy":
            self.check = [program, "-c", "-f", str(self.config)]
            self.run = [program, "-db", "-f", str(self.config)]
        else:
            common = [program, "-e", f"{directory}/error.log", "-p", str(directory), "-c", str(self.config)]
            self.check = [*common, "-t"]
            self.run = [*common, "-g", "daemon off; user root; "]


@contextmanager
def proxied(name: str, directory: Path, server: int, health: int, console: int = 1) -> Iterator[Proxied]:
    found = Proxied(name, directory, server, health, console)
    checked = subprocess.run(found.check, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "warning" not in checked.stderr.lower() or "user" in checked.stderr, checked.stderr
    process = subprocess.Popen(found.run, cwd=directory, start_new_session=True)
    try:
        yield found
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["haproxy", "nginx"])
def test_clients_and_a_follower_work_through_a_proxy(name: str, tmp_path: Path) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not here")
    port, health = free_port(), free_port()
    address = f"127.0.0.1:{port}"
    with EmbeddedDatabase(tmp_path / "db") as db:
        declare(db, ITEMS)
        readiness = Readiness()
        how: Any = {"token": TOKEN, "readiness": readiness, "proxies": ["127.0.0.1"]}
        server = Server({"x": db}, address, **how).start()
        with (
            Endpoint(f"127.0.0.1:{health}", readiness),
            proxied(name, tmp_path, port, health) as proxy,
        ):
            for nth, url in enumerate((proxy.tls, proxy.plain)):
                with waiting(url) as remote:
                    remote.put(ITEMS, Item(id=1, text="x"))
                    with remote.transaction() as tx:
                        assert tx.get(ITEMS, 1) is not None
                        time.sleep(1.5)  # idle in the middle of a call is allowed
                        tx.put(ITEMS, Item(id=2, text="y" * 2_000_000))  # a request over 1 MB
                    first = 10_000 * (nth + 1)
                    remote.load(ITEMS, (Item(id=first + n, text="z" * 1000) for n in range(2_000)))
                    assert sum(1 for _ in remote.scan(ITEMS)) == 2 + 2_000 * (nth + 1)
            with RemoteDatabase(proxy.tls) as remote, RemoteDatabase(proxy.tls) as writer:
                followed, first = list[int](), db.head

                def follow() -> None:
                    for commit in remote.feed(after=first, heartbeat_s=0.2, until=first + 20):
                        followed.append(commit.seq)

                thread = threading.Thread(target=follow, daemon=True)
                thread.start()
                for n in range(10):
                    writer.put(ITEMS, Item(id=100 + n, text="x"))
                time.sleep(2)  # heartbeats alone
                server.stop()
                with pytest.raises(UnavailableError):
                    RemoteDatabase(proxy.tls, retry_s=0.1, connect_s=0)
                server = Server({"x": db}, address, **how).start()
                for n in range(10):
                    writer.put(ITEMS, Item(id=200 + n, text="x"))
                thread.join(60)
                assert followed == list(range(first + 1, first + 21))
        server.stop()


@pytest.mark.long
@pytest.mark.timeout(120)
def test_haproxy_names_its_clients(tmp_path: Path) -> None:
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not here")
    health = free_port()
    with (
        EmbeddedDatabase(tmp_path / "db") as db,
        Server({"x": db}, token=TOKEN, proxies=["127.0.0.1"]) as server,
        Endpoint(f"127.0.0.1:{health}", server.readiness),
        proxied("haproxy", tmp_path, server.port, health) as proxy,
        waiting(proxy.plain),
    ):
        address = proxy.plain.removeprefix("everlog+insecure://").partition("/")[0]
        client = RawClient(address, greet=False)
        with client:
            client.socket.close()
            host, _, port = address.partition(":")
            client.socket = socket.create_connection((host, int(port)), 60, source_address=("127.0.0.2", 0))
            client.send(http2.PREFACE + http2.settings({}))
            client.send(client.headers(1, "/grpc.health.v1.Health/Watch"))
            client.send(http2.frame(http2.DATA, True, 1, http2.message(b"")))
            client.next(http2.DATA)
            assert [one.peer for one in server.connections if one.peer.startswith("127.0.0.2:")]


@contextmanager
def waiting(url: str) -> Iterator[RemoteDatabase]:
    """Yield a client, once the proxy runs and has found its server."""
    with _found(url) as remote:
        yield remote


def _found(url: str) -> RemoteDatabase:
    until = time.monotonic() + 60
    while True:
        try:
            return RemoteDatabase(url, connect_s=1)
        except UnavailableError:
            if time.monotonic() > until:
                raise


@pytest.mark.long
@pytest.mark.timeout(120)
def test_haproxy_takes_a_server_out_that_is_not_ready(tmp_path: Path) -> None:
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not here")
    health = free_port()
    with (
        EmbeddedDatabase(tmp_path / "db") as db,
        Server({"x": db}, token=TOKEN, proxies=["127.0.0.1"]) as server,
        Endpoint(f"127.0.0.1:{health}", server.readiness),
        proxied("haproxy", tmp_path, server.port, health) as proxy,
    ):
        with waiting(proxy.plain):
            pass
        refuse(db)
        while True:
            try:
                with RemoteDatabase(proxy.plain, retry_s=0.1, connect_s=0) as remote:
                    remote.admin.health()
            except UnavailableError:
                break
        db.engine.refusal.end()
        with waiting(proxy.plain) as remote:
            assert remote.admin.health().ready


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["haproxy", "nginx"])
def test_the_console_sees_the_addresses_of_its_visitors_through_a_proxy(name: str, tmp_path: Path) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not here")
    port = free_port()
    with (
        EmbeddedDatabase(tmp_path / "db") as db,
        Server({"x": db}, tokens={"ann": "token-of-ann"}, roles={"ann": ("owner",)}) as server,
        proxied(name, tmp_path, server.port, free_port(), port) as proxy,
    ):
        web = WebServer(f"127.0.0.1:{port}", url=f"https://localhost:{proxy.web}")
        web.server = own_server(server.host, server.port, None)
        web.setup = Setup(proxies=("127.0.0.1",))
        tls = ssl.create_default_context(cafile=str(TLS.certificate))
        with web:
            guesses, other = (Visitor(web.url, tls=tls, source=f"127.0.0.{one}") for one in (2, 3))
            until = time.monotonic() + 60
            while _status(guesses) != 200:
                assert time.monotonic() < until
            for number in range(FAILURES):
                forged = {"X-Forwarded-For": f"203.0.113.{number}"}  # the proxy adds the true address
                assert guesses.post("/sign-in", forged, token="wrong").status == 403
            assert guesses.post("/sign-in", {"X-Forwarded-For": "203.0.113.99"}, token="wrong").status == 429
            other.get("/sign-in")
            assert other.post("/sign-in", token="token-of-ann").status == 303
            assert other.get("/account").status == 200


def _status(visitor: Visitor) -> int:
    try:
        return visitor.get("/sign-in").status
    except OSError:  # the proxy has not started
        return 0


def test_the_configurations_name_the_same_addresses() -> None:
    for file in ("haproxy.cfg", "nginx.conf"):
        text = (OPERATE / file).read_text()
        for address in (
            *("0.0.0.0:7420", "127.0.0.1:7421", "127.0.0.1:7430", "0.0.0.0:7443", "127.0.0.1:7431"),
        ):
            assert address in text
    assert "GET uri /readyz" in (OPERATE / "haproxy.cfg").read_text()
