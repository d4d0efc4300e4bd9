"""The metrics of a server: what they say, who may read them, and that they are Prometheus's."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from everlog.audit.backup import backup
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server import endpoint as endpoints
from everlog.rpc.server import metrics
from everlog.rpc.server.endpoint import Endpoint
from everlog.rpc.server.metrics import METRICS, OTHER, Metrics, page_table
from everlog.rpc.server.server import Server
from everlog.store.errors import ConflictError, DiskError, OpenError, UnavailableError
from everlog.store.schema.table import Index, Table
from everlog.store.upkeep.sizes import sizes_of
from tests.rpc.certificates import Authority
from tests.store.models import ITEM_ID, ITEMS, TEXT, Item, declare

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
UNITS = ("_seconds", "_bytes", "_records", "_rows", "_total", "_seq", "_info", "_bytes_per_second")
COUNTS = re.compile(  # gauges that count things need no unit
    r"_(up|ready|size|waiting|refused|subscribers|consumers|over_cap|connections(_max)?|running|migrations|files"
    r"|stopped|readable|snapshots|rows_done)$"
)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    with EmbeddedDatabase(tmp_path / "db") as found:
        declare(found, ITEMS)
        yield found


class Scraped:
    """One scrape: values by name and labels."""

    def __init__(self, body: str) -> None:
        self.families = {one.name: one for one in text_string_to_metric_families(body)}
        self.samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for one in self.families.values()
            for sample in one.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.samples.get((f"everlog_{name}", tuple(sorted(labels.items()))))


def get(endpoint: Endpoint, path: str = "/metrics", **headers: str) -> tuple[int, str]:
    host, _, port = endpoint.url.removeprefix("http://").removesuffix("/metrics").rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def scraped(endpoint: Endpoint) -> Scraped:
    endpoint._cached.clear()  # noqa: SLF001  not of a second ago
    status, body = get(endpoint)
    assert status == 200
    return Scraped(body)


@pytest.fixture
def served(db: EmbeddedDatabase) -> Iterator[tuple[Server, Endpoint]]:
    with (
        Server({"shop": db}) as server,
        Endpoint("127.0.0.1:0", server.readiness, Metrics(server)) as endpoint,
    ):
        yield server, endpoint


def conflict(db: EmbeddedDatabase) -> None:
    """Two commits, the second of which is refused."""
    stale = db.transaction()
    stale.get(ITEMS, 1)
    db.put(ITEMS, Item(id=1, text="y"))
    stale.put(ITEMS, Item(id=1, text="z"))
    with pytest.raises(ConflictError):
        stale.commit()


def test_commits_calls_and_sizes_are_measured(db: EmbeddedDatabase, served: tuple[Server, Endpoint]) -> None:
    server, endpoint = served
    before = scraped(endpoint)
    with RemoteDatabase(server.url("shop")) as remote:
        for number in range(20):
            remote.put(ITEMS, Item(id=number, text="x"))
        conflict(db)
        now = scraped(endpoint)
        assert before("commits_total", database="shop") == 0
        assert now("commits_total", database="shop") == 21
        assert now("commit_seconds_count", database="shop") == 21
        assert now("commit_group_size_sum", database="shop") == 21
        assert now("sync_seconds_count", database="shop") == 21
        assert now("commits_refused_total", database="shop", error="ConflictError") == 1
        assert now("table_rows", database="shop", table="items") == 20
        assert now("log_head_seq", database="shop") == db.head
        assert now("calls_total", method="Store/Commit", status="OK") == 20
        assert now("call_seconds_count", method="Store/Commit") == 20
        assert now("connections") == 1
        assert (now("connections_max") or 0) > 100
        assert now("database_up", database="shop") == 1
        assert now("writes_refused", database="shop") == 0
        assert now("writes_refused_since_timestamp_seconds", database="shop") is None
        assert (now("disk_free_bytes", database="shop") or 0) > 0
        assert now("rocksdb_write_stopped", database="shop", family="log") == 0
    db.tables.flush()
    db.engine.flush()
    now = scraped(endpoint)
    assert (now("table_bytes", database="shop", table="items") or 0) > 0
    assert (now("log_bytes", database="shop") or 0) > 0


def test_followers_are_measured(db: EmbeddedDatabase, served: tuple[Server, Endpoint]) -> None:
    server, endpoint = served
    for number in range(10):
        db.put(ITEMS, Item(id=number, text="x" * 1000))
    db.consumers.register("mirror", after=db.head - 4)
    with RemoteDatabase(server.url("shop")) as remote:
        feed = iter(remote.feed(after=0))
        next(feed)
        now = scraped(endpoint)
        assert now("subscribers", database="shop") == 1
        assert now("consumers", database="shop") == 1
        lag = now("consumer_lag_records", database="shop", consumer="mirror")
        assert lag == 5  # and the notice of the registration
        assert (now("consumer_lag_bytes", database="shop", consumer="mirror") or 0) > 1000
        assert (now("consumer_lag_seconds", database="shop", consumer="mirror") or 0) > 0
        assert now("consumer_over_cap", database="shop", consumer="mirror") == 0
        assert now("calls_running", method="Feed/Subscribe") == 1


def test_refused_writes_and_denied_calls_are_measured(db: EmbeddedDatabase, tmp_path: Path) -> None:
    with (
        Server({"shop": db}, token="sesame") as server,
        Endpoint("127.0.0.1:0", server.readiness, Metrics(server)) as endpoint,
    ):
        with pytest.raises(UnavailableError), RemoteDatabase(server.url("shop"), retry_s=0) as remote:
            remote.admin.status()
        now = scraped(endpoint)
        denied = now("calls_total", method="Store/Describe", status="UNAUTHENTICATED")
        assert denied
        assert now("calls_denied_total", method="Store/Describe") == denied
        db.engine.stop(DiskError("the directory was replaced", outcome="nothing written"))  # for good
        since_ns = db.engine.refusal.since_ns
        now = scraped(endpoint)
        assert now("writes_refused", database="shop") == 1
        assert now("writes_refused_since_timestamp_seconds", database="shop") == since_ns / 1e9


def test_certificates_are_measured(db: EmbeddedDatabase, tmp_path: Path) -> None:
    from everlog.rpc.security import Tls

    certificate, key = Authority(tmp_path).sign("localhost", days=3)
    with (
        Server({"shop": db}, tls=Tls(certificate, key, None)) as server,
        Endpoint("127.0.0.1:0", server.readiness, Metrics(server)) as endpoint,
    ):
        (found,) = scraped(endpoint).families["everlog_certificate_expires_timestamp_seconds"].samples
        assert found.labels["file"] == str(certificate)
        assert found.value > 0


def test_backups_are_measured(db: EmbeddedDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BACKUPS_EVERY_S", 0.0)
    where = tmp_path / "backup"
    with Server({"shop": db}) as server:
        measured = Metrics(server, {"shop": str(where)})
        with Endpoint("127.0.0.1:0", server.readiness, measured) as endpoint:
            assert scraped(endpoint)("backup_readable", database="shop") == 0
            backup(db, where)
            db.put(ITEMS, Item(id=1))
            now = scraped(endpoint)
            assert now("backup_readable", database="shop") == 1
            assert now("backup_lag_records", database="shop") == 1
            at = now("backup_last_timestamp_seconds", database="shop")
            assert at == db.log.commit(db.head - 1).time_ns / 1e9
            (where / "BACKUP").write_text("{}")
            assert scraped(endpoint)("backup_readable", database="shop") == 0


def test_connections_that_break_the_protocol_are_measured(served: tuple[Server, Endpoint]) -> None:
    server, endpoint = served
    with socket.create_connection((server.host, server.port)) as one:
        one.sendall(b"GET / HTTP/1.1\r\n\r\n" + b" " * 100)
        while one.recv(1000):
            pass
    assert scraped(endpoint)("connections_dropped_total", reason="protocol_error") == 1


def test_a_database_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    with (
        EmbeddedDatabase(tmp_path / "a") as a,
        EmbeddedDatabase(tmp_path / "b") as b,
        Server({"a": a, "b": b}) as server,
        Endpoint("127.0.0.1:0", server.readiness, Metrics(server)) as endpoint,
    ):
        a.close()
        now = scraped(endpoint)
        assert now("database_up", database="a") == 0
        assert now("database_up", database="b") == 1
        assert now("log_head_seq", database="b") == 1


def test_many_tables_have_a_bounded_number_of_series(
    db: EmbeddedDatabase, served: tuple[Server, Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, endpoint = served
    monkeypatch.setattr(metrics, "TABLES_MAX", 4)
    monkeypatch.setattr(metrics, "INDEXES_MAX", 4)
    monkeypatch.setattr(metrics, "CONSUMERS_MAX", 2)
    made = [
        Table(f"table{number}", Item, key=ITEM_ID, indexes=(Index("by_text", TEXT),)) for number in range(8)
    ]
    declare(db, ITEMS, *made)
    for number, table in enumerate(made):
        for row in range(number):
            db.put(table, Item(id=row, text="x"), durability="os")
        db.consumers.register(f"c{number}", after=number)
    now = scraped(endpoint)
    rows = {one.labels["table"]: one.value for one in now.families["everlog_table_rows"].samples}
    assert rows == {"table7": 7, "table6": 6, "table5": 5, OTHER: 4 + 3 + 2 + 1}
    assert len(now.families["everlog_table_bytes"].samples) == 4
    assert len(now.families["everlog_index_bytes"].samples) == 4
    consumers = [one.labels["consumer"] for one in now.families["everlog_consumer_lag_records"].samples]
    assert consumers == ["c0", "c1"]
    assert now("consumers", database="shop") == 8


def test_the_sizes_of_tables_add_up_to_their_files(db: EmbeddedDatabase) -> None:
    for number in range(2000):
        db.put(ITEMS, Item(id=number, text="x" * 100), durability="os")
    db.tables.flush()
    db.engine.flush()
    whole = sum(size for size, _, _ in db.engine.data_files())
    sizes = sizes_of(db.core)
    assert whole * 0.99 <= sum(sizes.values()) <= whole
    assert sizes[db.schema.table("items").row_prefix] > whole / 2


def test_only_this_machine_reads_them_without_a_token(
    db: EmbeddedDatabase, served: tuple[Server, Endpoint], tmp_path: Path
) -> None:
    server, endpoint = served
    assert get(endpoint, Host="evil.example:9420")[0] == 421
    assert get(endpoint, "/")[0] == 404
    with pytest.raises(OpenError, match=r"could be read from other machines .*--metrics-token-file"):
        Endpoint("0.0.0.0:0", server.readiness, Metrics(server))
    with Endpoint("127.0.0.1:0", server.readiness, Metrics(server), token="sesame") as guarded:
        assert get(guarded)[0] == 401
        assert get(guarded, Authorization="Bearer thyme")[0] == 401
        assert get(guarded, Authorization="Bearer sesame", Host="metrics.example")[0] == 200
    with pytest.raises(OpenError, match="choose another --metrics"):
        Endpoint(
            endpoint.url.removeprefix("http://").removesuffix("/metrics"), server.readiness, Metrics(server)
        )


def test_the_missing_library_is_said_with_the_command(
    served: tuple[Server, Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    with pytest.raises(OpenError, match=r"pip install 'everlog\[metrics\]'"):
        Endpoint("127.0.0.1:0", served[0].readiness, Metrics(served[0]))


def test_readers_that_do_not_read_are_refused_beyond_a_number(served: tuple[Server, Endpoint]) -> None:
    _, endpoint = served
    port = int(endpoint.url.removesuffix("/metrics").rpartition(":")[2])
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(endpoints.REQUESTS_MAX)]
    started = threading.Event()
    while sum("process_request_thread" in one.name for one in threading.enumerate()) < endpoints.REQUESTS_MAX:
        started.wait(0.01)
    with socket.create_connection(("127.0.0.1", port)) as one:
        assert one.recv(20) == b"HTTP/1.0 503 Service"
    for each in idle:
        each.close()
    while get_or_none(endpoint) != 200:
        started.wait(0.01)


def get_or_none(endpoint: Endpoint) -> int | None:
    try:
        return get(endpoint)[0]
    except (OSError, http.client.HTTPException):
        return None


def test_a_client_reads_its_response_although_it_still_sends(served: tuple[Server, Endpoint]) -> None:
    host, _, port = served[1].address.rpartition(":")
    for request, status in ((b"POST /metrics", b"501"), (b"GET /other", b"404"), (b"GET /healthz", b"200")):
        with socket.create_connection((host, int(port)), timeout=60) as one:
            one.sendall(request + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 600000\r\n\r\n")
            answer = one.recv(1 << 16)
            one.sendall(bytes(600_000))  # before it has read all
            while part := one.recv(1 << 16):
                answer += part
        assert answer.startswith(b"HTTP/1.0 " + status)
        assert len(answer.partition(b"\r\n\r\n")[2]) > 5


def test_a_client_that_begins_tls_is_answered_at_once(
    served: tuple[Server, Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints._Handler, "timeout", None)  # noqa: SLF001  it would wait without end
    host, _, port = served[1].address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=60) as one,
        pytest.raises(ssl.SSLError, match="WRONG_VERSION_NUMBER"),
    ):
        ssl.create_default_context().wrap_socket(one, server_hostname="localhost")


def test_names_have_a_prefix_and_a_unit_and_help() -> None:
    for one in METRICS:
        assert re.fullmatch(r"everlog_[a-z0-9_]+", one.name)
        assert one.help.endswith(".")
        assert one.name.endswith(UNITS) or COUNTS.search(one.name), one.name
        assert one.name.endswith("_total") == (one.kind == "counter")
    assert len({one.name for one in METRICS}) == len(METRICS)


def test_the_page_has_the_table_of_the_registry() -> None:
    _, _, table = PAGE.read_text("utf-8").partition("-->\n")
    assert table.splitlines() == list(page_table())


def test_the_output_is_what_was_declared(served: tuple[Server, Endpoint]) -> None:
    families = scraped(served[1]).families
    for one in METRICS:
        name = one.name.removesuffix("_total") if one.kind == "counter" else one.name
        found: Any = families[name]
        assert (found.type, found.documentation) == (one.kind, one.help)
        assert all(set(sample.labels) - {"le"} == set(one.labels) for sample in found.samples)
    assert {name for name in families if name.startswith("everlog_")} == {
        one.name.removesuffix("_total") if one.kind == "counter" else one.name for one in METRICS
    }
    assert "process_resident_memory_bytes" in families


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here")
def test_promtool_finds_no_fault(served: tuple[Server, Endpoint]) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=get(served[1])[1], text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
