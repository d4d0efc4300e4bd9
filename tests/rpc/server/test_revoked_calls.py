"""Revoked calls: each call that lasts, of any service, ends when its token is revoked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from everlog.migrations.approval.approval import Approval
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.http2.grpc import Call
from everlog.rpc.server import host
from everlog.rpc.server.rights import LOOK_S
from everlog.rpc.server.server import Server
from everlog.rpc.server.threads import Work
from tests.rpc.server.test_rights import METHODS, path_of, request_of

PATIENCE_S = 60.0
# Every call that streams, and single responses that take long: reads and writes of whole tables. Those of a
# fleet need a ledger: tests/fleet/test_transport.py.
STREAMS = [
    name
    for name, one in METHODS.items()
    if (one.server_streaming or one.client_streaming) and not name.startswith("Fleet/")
]
LONG = ["Admin/Status", "Admin/Expire", "Proofs/Head", "Store/Count", "Store/BatchGet", "People/Readable"]
WATCHES = {
    "/grpc.health.v1.Health/Watch": b"",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": b"\x3a\x00",  # list the services
}
FIELDS: dict[str, dict[str, Any]] = {
    "Admin/Status": {"hashes": True},
    "People/Export": {"person": b"1"},
    "Store/Load": {"id": b"0123456789abcdef"},
    "Store/Turn": {"tables": ["airports"]},
}


def test_every_call_that_lasts_ends_when_its_token_is_revoked(
    db: EmbeddedDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, released = db.access.create_token("ann", ("owner",)), threading.Event()
    work = host._work  # noqa: SLF001  where each call of a thread begins

    def held(fn: Callable[[], Any], **how: Any) -> Work:
        """Work that has begun, and lasts until the test ends."""

        def run() -> Any:
            assert released.wait(PATIENCE_S)
            return fn()

        return work(run, **how)

    monkeypatch.setattr(host, "_work", held)
    info, ended = db.schema.table("airports"), threading.Event()
    paths = {path_of(name): name for name in (*STREAMS, *LONG)}
    assert LOOK_S <= 0.5
    with (
        Server(
            {"x": db},
            archives={"x": str(tmp_path / "archive")},
            migrations={"x": "nowhere"},
            approvals={"x": Approval(db, "nowhere", "x")},
        ) as server,
        grpc.insecure_channel(server.address) as opened,
        ThreadPoolExecutor(len(paths) + len(WATCHES)) as pool,
    ):
        channel: Any = opened  # of bytes

        def code(path: str) -> tuple[grpc.StatusCode, str]:
            how: dict[str, Any] = {"metadata": (("authorization", f"Bearer {made.text}"),)}
            name = paths.get(path)
            request = WATCHES.get(path, b"")
            if name is not None:
                one = request_of(name)
                one.MergeFrom(type(one)(**FIELDS.get(name, {})))
                if "space" in one.DESCRIPTOR.fields_by_name:
                    one.space = info.space
                request = one.SerializeToString()

            def requests() -> Iterator[bytes]:
                yield request
                ended.wait(PATIENCE_S)

            try:
                if name is None or METHODS[name].server_streaming:
                    streaming = name == "Store/Load" or "Reflection" in path
                    if streaming:
                        list(channel.stream_stream(path)(requests(), **how))
                    else:
                        list(channel.unary_stream(path)(request, **how))
                else:
                    channel.unary_unary(path)(request, **how)
            except grpc.RpcError as error:
                return error.code(), str(error.details())
            return grpc.StatusCode.OK, ""

        calls = {path: pool.submit(code, path) for path in (*paths, *WATCHES)}

        def going() -> list[Call]:
            return [one for one in list(server.activity.running.values()) if one.request is not None]

        try:
            until = time.monotonic() + PATIENCE_S
            while len(going()) < len(calls):
                early = {path: one.result() for path, one in calls.items() if one.done()}
                assert not early, "these have ended already: give them what they need in FIELDS"
                assert time.monotonic() < until, {*paths.values()} - {one.method for one in going()}
                time.sleep(0.005)
            db.access.revoke_token(made.token.id)
            found = {path: one.result(PATIENCE_S) for path, one in calls.items()}
        finally:
            ended.set()
            released.set()
            opened.close()  # ends the calls of a failed test
    assert {code for code, _ in found.values()} == {grpc.StatusCode.UNAUTHENTICATED}, found
    assert all(text.startswith("this token has ended") for _, text in found.values())
