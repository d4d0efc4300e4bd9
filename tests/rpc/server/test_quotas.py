"""Quotas: limits of names and addresses, which error a client gets, and what others notice: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from everlog import LimitError, OpenError
from everlog.proto import feed_pb2, store_pb2
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.http2 import frames as http2
from everlog.rpc.http2.limits import Bucket
from everlog.rpc.security import Identity
from everlog.rpc.server import quotas
from everlog.rpc.server.quotas import EXTRA, Limits, Quota, Quotas, address_of, read_own
from everlog.rpc.server.rights import Scope
from everlog.rpc.server.server import Server
from everlog.store.upkeep.access import allowances
from everlog.store.upkeep.allowance import Allowance
from everlog.store.upkeep.roles import Role, Rule
from tests.conformance.database_case import AIRPORTS, Airport
from tests.rpc.raw_client import RawClient

PATIENCE_S = 60.0
DESCRIBE = "/everlog.v1.Store/Describe"
SUBSCRIBE = "/everlog.v1.Feed/Subscribe"
ASKED = store_pb2.DescribeRequest(database="x").SerializeToString()
REFUSED, FINE = "8", "0"


@contextlib.contextmanager
def served(
    db: EmbeddedDatabase, own: dict[str, dict[str, float]] | None = None, **limits: float
) -> Iterator[Server]:
    """A server for ann and bob, each an owner with its name as its token."""
    names = ("ann", "bob")
    with Server(
        {"x": db},
        tokens={name: f"token-of-{name}" for name in names},
        roles=dict.fromkeys(names, ("owner",)),
        quota=Quota(Limits(**limits), own or {}),
    ) as server:
        yield server


def opened(server: Server, name: str, retry_s: float = PATIENCE_S) -> RemoteDatabase:
    return RemoteDatabase(f"{server.url('x')}?token=token-of-{name}", retry_s=retry_s)


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer token-of-{name}"}


def repeat(times: int, do: Callable[[], object]) -> None:
    for _ in range(times):
        do()


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


def statuses(client: RawClient, count: int, first: int = 1, name: str = "ann") -> list[dict[str, str]]:
    """Make calls in one write, and return how each ended."""
    sent = b""
    for stream in range(first, first + 2 * count, 2):
        sent += client.headers(stream, DESCRIBE, **bearer(name))
        sent += http2.frame(http2.DATA, http2.END_STREAM, stream, http2.message(ASKED))
    client.send(sent)
    return [client.trailers() for _ in range(count)]


def test_calls_a_second_of_a_name_are_limited_and_told_when_to_try_again(
    db: EmbeddedDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    with served(db, {"ann": {"calls": 2}}) as server, RawClient(server.address) as client:
        with caplog.at_level(logging.WARNING, "everlog"):
            found = statuses(client, 150)
        refused = [one for one in found if one["grpc-status"] == REFUSED]
        assert refused
        assert len(found) - len(refused) >= 2
        text = refused[0]["grpc-message"]
        assert text.startswith(
            "the limit of ann is reached: expected at most 2 calls a second; try again after"
        )
        assert 50 <= int(refused[0]["grpc-retry-pushback-ms"]) <= 1000
        assert server.activity.limits == {"calls": len(refused)}
        lines = [one for one in caplog.records if "has reached its limit" in one.getMessage()]
        assert [one.getMessage() for one in lines] == ["ann has reached its limit of calls a second"]
        assert [one["grpc-status"] for one in statuses(client, 20, 301, "bob")] == [FINE] * 20


def test_a_client_waits_as_long_as_it_is_told(db: EmbeddedDatabase) -> None:
    with served(db, calls=5) as server, opened(server, "ann") as remote:
        for _ in range(12):
            assert remote.admin.status().head == db.head
    with served(db, calls=1) as server, RawClient(server.address) as client:
        statuses(client, 50)
        with pytest.raises(LimitError) as at:
            repeat(50, lambda: opened(server, "ann", retry_s=0).close())
        assert at.value.limit == "calls"
        assert 0 < at.value.retry_s <= 1


def test_running_calls_of_a_name_are_limited(db: EmbeddedDatabase) -> None:
    ask = feed_pb2.SubscribeRequest(database="x").SerializeToString()
    with served(db, {"ann": {"streams": 3}}) as server, RawClient(server.address) as client:
        for stream in (1, 3, 5):
            client.call(stream, SUBSCRIBE, ask, **bearer("ann"))
            client.next(http2.DATA)
        client.call(7, DESCRIBE, ASKED, **bearer("ann"))
        refused = client.trailers()
        assert refused["grpc-status"] == REFUSED
        assert "at most 3 running calls" in refused["grpc-message"]
        client.send(http2.rst_stream(3, http2.Code.CANCEL))
        streams = iter(range(9, 10_000, 2))  # the call ends a little later than its stream
        wait_until(lambda: statuses(client, 1, next(streams))[0]["grpc-status"] == FINE)
        assert set(server.activity.limits) == {"streams"}
    assert not server.activity.running


def test_connections_of_an_address_are_limited(db: EmbeddedDatabase) -> None:
    with served(db, connections=2) as server, contextlib.ExitStack() as stack:
        clients = list[RawClient]()
        for _ in range(3):
            clients.append(stack.enter_context(RawClient(server.address)))
            clients[-1].next(http2.SETTINGS)  # its connection is counted
        first, second, third = clients
        assert statuses(second, 1)[0]["grpc-status"] == FINE
        refused = statuses(third, 1)[0]
        assert refused["grpc-status"] == REFUSED
        assert "the limit of this address is reached: expected at most 2 conn" in refused["grpc-message"]
        first.socket.close()
        wait_until(lambda: len(server.connections) == 2)
        assert statuses(third, 1, 3)[0]["grpc-status"] == FINE
        more = [stack.enter_context(RawClient(server.address)) for _ in range(EXTRA + 1)]
        with pytest.raises(ConnectionError):  # one of these at least is closed
            statuses(more[-1], 1)
        wait_until(lambda: len(server.connections) == 2 + EXTRA)
    assert not server.connections


def test_connections_of_a_name_are_limited(db: EmbeddedDatabase) -> None:
    with served(db, {"ann": {"connections": 1}}) as server, contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(RawClient(server.address)) for _ in range(2))
        assert statuses(first, 1)[0]["grpc-status"] == FINE
        refused = statuses(second, 1)[0]
        assert refused["grpc-status"] == REFUSED
        assert "the limit of ann is reached: expected at most 1 connections" in refused["grpc-message"]
        assert statuses(second, 1, 3, "bob")[0]["grpc-status"] == FINE
        first.socket.close()
        wait_until(lambda: len(server.connections) == 1)
        assert statuses(second, 1, 5)[0]["grpc-status"] == FINE


def test_rows_of_a_call_are_limited_and_the_call_is_not_repeated(db: EmbeddedDatabase) -> None:
    with db.transaction() as tx:
        for number in range(300):
            tx.put(AIRPORTS, Airport(faa=f"A{number:06}", name=f"airport {number}"))
    with served(db, {"ann": {"rows": 200}}) as server:
        with opened(server, "ann") as remote:
            assert len(list(remote.scan(AIRPORTS, limit=200))) == 200
            with pytest.raises(LimitError, match="of ann is reached: expected at most 200 rows in one") as at:
                list(remote.scan(AIRPORTS))
            assert (at.value.limit, at.value.retry_s) == ("rows", 0)
            with pytest.raises(LimitError, match="200 rows"):
                list(remote.past.diff(AIRPORTS, 1, db.head))
        with opened(server, "bob") as remote:
            assert remote.count(AIRPORTS) == len(list(remote.scan(AIRPORTS))) == db.count(AIRPORTS)


LARGE = "x" * 20_000


def large(number: int) -> Airport:
    return Airport(faa=f"L{number:06}", name=f"large {number} {time.monotonic_ns()}", city=LARGE)


def fill(db: EmbeddedDatabase, count: int) -> int:
    """Put large rows, and return their bytes."""
    with db.transaction() as tx:
        for number in range(count):
            tx.put(AIRPORTS, large(number))
    return count * len(LARGE)


def test_bytes_sent_to_a_name_are_limited_and_nobody_else_waits(db: EmbeddedDatabase) -> None:
    size, rate = fill(db, 100), 600_000
    with (
        served(db, {"ann": {"bytes_out": rate}}) as server,
        opened(server, "ann") as slow,
        opened(server, "bob") as fast,
    ):
        began = time.monotonic()
        rows = iter(slow.scan(AIRPORTS, start="L000000", end="M"))
        next(rows)
        assert len(list(fast.scan(AIRPORTS, start="L000000", end="M"))) == 100  # while ann waits
        assert sum(1 for _ in rows) == 99
        assert time.monotonic() - began >= (size - rate) / rate - 1  # the first second's bytes are free
    asked = store_pb2.ScanRequest(database="x", table="airports", space=1, end=b"\xff")
    with served(db, {"ann": {"bytes_out": 1000}}) as server, RawClient(server.address) as client:
        client.call(1, "/everlog.v1.Store/Scan", asked.SerializeToString(), **bearer("ann"))
        client.next(http2.DATA)  # more than its bytes of a minute
        for stream in range(3, 23, 2):
            client.call(stream, "/everlog.v1.Store/Scan", asked.SerializeToString(), **bearer("ann"))
        assert client.trailers()["grpc-status"] == REFUSED  # others wait for its window


def test_bytes_of_an_address_are_limited_and_a_feed_goes_on(db: EmbeddedDatabase) -> None:
    rate = 1_000_000
    with served(db, bytes_out=rate) as server, opened(server, "bob") as remote:
        began = time.monotonic()
        feeds = [remote.feed(after=db.head) for _ in range(3)]
        threads = [ThreadPoolExecutor(1) for _ in feeds]
        found = [
            one.submit(lambda feed=feed: [one.seq for one in islice(feed, 4)])  # type: ignore[misc]
            for one, feed in zip(threads, feeds, strict=True)
        ]
        wait_until(lambda: server.subscribers["x"] == 3)
        head = db.head
        size = sum(fill(db, 10) for _ in range(4))
        for one in found:
            assert one.result(PATIENCE_S) == list(range(head + 1, head + 5))
        assert time.monotonic() - began >= (3 * size - rate) / rate - 1
        for thread in threads:
            thread.shutdown()


def test_bytes_received_from_a_name_are_limited(db: EmbeddedDatabase) -> None:
    rate, count = 400_000, 60
    with served(db, {"ann": {"bytes_in": rate}}) as server, opened(server, "ann") as remote:
        began = time.monotonic()
        remote.load(AIRPORTS, (large(number) for number in range(count)))
        assert time.monotonic() - began >= (count * len(LARGE) - rate) / rate - 1
    assert db.count(AIRPORTS, start="L000000", end="M") == count


def test_other_limits_are_in_force_at_once(db: EmbeddedDatabase) -> None:
    with served(db) as server, RawClient(server.address) as client:
        assert {one["grpc-status"] for one in statuses(client, 50)} == {FINE}
        server.limit(Quota(Limits(), {"ann": {"calls": 1}}))
        found = set[str]()
        stream = 101
        while REFUSED not in found:
            found = {one["grpc-status"] for one in statuses(client, 50, stream)}
            stream += 100
        server.limit(Quota(Limits()))
        while REFUSED in found:
            found = {one["grpc-status"] for one in statuses(client, 50, stream)}
            stream += 100


def connection(peer: str) -> Any:
    """What quotas use of a connection."""
    out = SimpleNamespace(meter=None)
    return SimpleNamespace(peer=peer, out=out, received=None, account=None, abort=lambda: None)


def call(of: Any, who: str) -> Any:
    stream = SimpleNamespace(connection=of, who=who, meter=None, received=())
    return SimpleNamespace(stream=stream, accounts=(), rows=0, rows_max=0)


def test_what_is_kept_of_callers_that_have_left_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "ACCOUNTS_MAX", 50)
    monkeypatch.setattr(quotas, "NAMES_MAX", 20)

    async def run() -> None:
        found = Quotas(Quota(Limits(calls=1)), lambda *_: None)
        stays = connection("10.0.0.1:1")
        found.connected(stays)
        for number in range(1000):
            leaves = connection(f"[2001:db8:{number:x}::1]:5".replace("[", "").replace("]", ""))
            found.connected(leaves)
            for one in (leaves, stays):
                called = call(one, f"name{number}")
                with contextlib.suppress(LimitError):
                    found.arrived(called)
                    found.identified(called)
                found.ended(called)
            found.lost(leaves)
            assert len(found.addresses) <= 51
            assert len(found.names) <= 71
        found.lost(stays)
        assert all(account.idle for account in (*found.names.all(), *found.addresses.all()))

    asyncio.run(run())


def test_an_account_survives_a_new_connection() -> None:
    """A new connection does not fill the bucket of its address."""

    async def run() -> None:
        found, refused = Quotas(Quota(Limits(calls=1)), lambda *_: None), 0
        for _ in range(20):
            one = connection("10.0.0.1:1")
            found.connected(one)
            called = call(one, "")
            try:
                found.arrived(called)
            except LimitError:
                refused += 1
            found.ended(called)
            found.lost(one)
        assert refused

    asyncio.run(run())


def test_addresses_of_one_machine_are_one() -> None:
    assert address_of("10.0.0.1:443") == "10.0.0.1"
    assert address_of("2001:db8::7:443") == address_of("2001:db8::8:1") == "2001:db8::/64"
    assert address_of("2001:db8:1::8:1") != address_of("2001:db8::8:1")
    assert address_of("::ffff:10.0.0.1:443") == "10.0.0.1"
    assert address_of("fe80::1%eth0:1") == "fe80::/64"
    assert address_of("") == ""


def test_the_limits_of_the_smallest_network_hold() -> None:
    own = read_own(
        [
            "10.0.0.0/8:calls=10",
            "10.1.0.9:calls=20",
            "10.1.0.9:streams=5",
            "2001:db8::1:rows=7",
            "ann:heavy=1",
        ]
    )
    found = Quota(Limits(calls=5), own)
    assert [found.of_address(one).calls for one in ("10.1.0.9", "10.1.0.8", "11.0.0.1")] == [20, 10, 5]
    assert found.of_address("10.1.0.9").streams == 5
    assert found.of_address("2001:db8::/64").rows == 7
    assert found.of_name("10.1.0.9").calls == 20
    assert (found.heavy("ann"), found.heavy("bob")) == (1, 4)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("calls=5", "expected WHO:LIMIT=N, such as batch:calls=100"),
        ("ann:rows", "expected WHO:LIMIT=N"),
        ("ann:speed=5", "a limit of connections, streams, calls, bytes-in"),
        ("ann:calls=-1", "expected a number of at least 0 for calls, found '-1'"),
        ("ann:calls=many", "found 'many'"),
        ("ann:calls=nan", "found 'nan'"),
        ("10.0.0.0/8:heavy=1", "heavy calls are limited by name, not by address"),
    ],
)
def test_an_invalid_limit_is_refused(word: str, text: str) -> None:
    with pytest.raises(OpenError) as at:
        read_own([word])
    assert text in str(at.value)


def test_a_bucket_gives_its_rate_and_what_one_second_saves() -> None:
    bucket = Bucket(100)
    now = time.monotonic() + 3600  # after a long pause
    given = 0
    for step in range(300):  # 30 s in steps of 0.1 s
        while True:
            bucket.left -= 1
            if bucket.left < 0 and bucket.wait_s(now + step / 10):
                bucket.left += 1
                break
            given += 1
    assert 3000 <= given <= 3200
    assert bucket.wait_s(now + 1e6) == 0


def test_a_large_amount_is_owed() -> None:
    bucket = Bucket(10)
    bucket.left -= 1000
    now = time.monotonic() + 100
    assert 95 < bucket.wait_s(now) < 100


def test_a_role_lowers_the_limits_of_its_holders_in_its_database(db: EmbeddedDatabase) -> None:
    few = Role("few", (Rule(("read", "status")),), allowance=Allowance(calls=2, rows=3))
    db.access.define(few)
    for name in ("cat", "dan"):
        db.access.grant(name, "few")
    db.access.grant("eve", "reader")
    tokens = {name: f"token-of-{name}" for name in ("cat", "dan", "eve")}
    with Server({"x": db}, tokens=tokens) as server, RawClient(server.address) as client:
        found = statuses(client, 50, name="cat")
        refused = [one for one in found if one["grpc-status"] == REFUSED]
        assert refused
        text = refused[0]["grpc-message"]
        assert text.startswith("the limit of cat in x is reached: expected at most 2 calls a second; try")
        assert [one["grpc-status"] for one in statuses(client, 20, 201, "eve")] == [FINE] * 20
        db.access.define(msgspec.structs.replace(few, allowance=Allowance(calls=0, rows=3)))
        assert [one["grpc-status"] for one in statuses(client, 20, 301, "cat")] == [FINE] * 20
        for number in range(5):
            db.put(AIRPORTS, Airport(faa=f"A{number}", name=f"name {number}"))
        with opened(server, "dan", retry_s=0) as remote, pytest.raises(LimitError, match="at most 3 rows"):
            list(remote.scan(AIRPORTS))
        db.access.grant("dan", "reader")  # it says nothing about rows
        with opened(server, "dan", retry_s=0) as remote, pytest.raises(LimitError, match="at most 3 rows"):
            list(remote.scan(AIRPORTS))


def test_bytes_of_the_holders_of_a_role_are_limited(db: EmbeddedDatabase) -> None:
    size, rate = fill(db, 60), 400_000
    limits = {"cat": {"bytes_out": rate}, "dan": {"bytes_in": rate}, "eve": {"bytes_out": 1000}}
    for name, limit in limits.items():
        db.access.define(Role(name, (Rule(("read", "load", "status")),), allowance=Allowance(**limit)))
        db.access.grant(name, name)
    tokens = {name: f"token-of-{name}" for name in limits}
    wide = Quota(Limits(bytes_in=1 << 30, bytes_out=1 << 30))  # of the server: both count
    with Server({"x": db}, tokens=tokens, quota=wide) as server:
        with opened(server, "cat") as remote:
            began = time.monotonic()
            assert len(list(remote.scan(AIRPORTS, start="L000000", end="M"))) == 60
            assert time.monotonic() - began >= (size - rate) / rate - 1
        with opened(server, "dan") as remote:
            began = time.monotonic()
            remote.load(AIRPORTS, (large(number) for number in range(60)))
            assert time.monotonic() - began >= (size - rate) / rate - 1
        with RawClient(server.address) as client:
            asked = store_pb2.ScanRequest(database="x", table="airports", space=1, end=b"\xff")
            client.call(1, "/everlog.v1.Store/Scan", asked.SerializeToString(), **bearer("eve"))
            client.next(http2.DATA)  # more than its bytes of a second
            client.call(3, "/everlog.v1.Store/Scan", asked.SerializeToString(), **bearer("eve"))
            refused = client.trailers()
            assert refused["grpc-status"] == REFUSED
            assert "of eve in x is reached: expected at most 1,000 bytes a second" in refused["grpc-message"]


def test_a_caller_learns_the_limits_in_force(db: EmbeddedDatabase) -> None:
    few = Allowance(calls=50, rows=0, streams=30_000, consumers=2, cap_bytes=0)
    db.access.define(Role("few", (Rule(("read", "status", "consumers")),), allowance=few))
    db.access.grant("cat", "few")
    db.access.grant("eve", "owner")
    tokens = {name: f"token-of-{name}" for name in ("cat", "eve")}
    quota = Quota(Limits(connections=7, bytes_in=5000), {"cat": {"rows": 9}, "eve": {"heavy": 0}})
    with Server({"x": db}, tokens=tokens, quota=quota) as server:
        with opened(server, "cat") as remote:
            caller = remote.access.whoami()
            found = {one.name: (one.value, one.by_roles) for one in caller.limits}
            by_server = {"connections": 7, "streams": 20_000, "bytes_in": 5000, "rows": 9, "heavy": 4}
            by_server["cap_seconds"] = 7 * 86_400
            assert found == {
                **{name: (value, False) for name, value in by_server.items()},
                "calls": (50, True),
                "consumers": (2, True),
            }
            assert "50 calls a second (roles)" in {one.words for one in caller.limits}
        with opened(server, "eve") as remote:
            found = {one.name: (one.value, one.by_roles) for one in remote.access.whoami().limits}
            limits = {"connections": (7, False), "streams": (20_000, False), "calls": (50_000, False)}
            assert found == {**limits, "bytes_in": (5000, False)}
    assert allowances(db.access.show()) == {"cat": few}
    assert db.access.whoami().limits == ()


def test_a_role_raises_no_limit_of_the_server(db: EmbeddedDatabase) -> None:
    db.access.define(Role("many", (Rule(("read", "status")),), allowance=Allowance(calls=1000, streams=0)))
    db.access.grant("cat", "many")
    with (
        Server({"x": db}, tokens={"cat": "token-of-cat"}, quota=Quota(Limits(calls=2))) as server,
        RawClient(server.address) as client,
    ):
        assert REFUSED in {one["grpc-status"] for one in statuses(client, 50, name="cat")}
    quota = Quota(Limits(heavy=4))
    for heavy, expected, unlimited in ((None, 4, 0), (0, 4, 0), (2, 2, 2), (9, 4, 9)):
        db.access.define(Role("many", (Rule(("read",)),), allowance=Allowance(heavy=heavy)))
        scope = Scope(db.access.state.holder("cat"), Identity("cat"))
        assert quota.heavy("cat", scope) == expected
        assert Quota(Limits(heavy=0)).heavy("cat", scope) == unlimited
