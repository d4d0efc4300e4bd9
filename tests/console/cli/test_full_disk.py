"""A server with a full disk: every command that reads works, and reports that writes are refused."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from everlog.audit.note import Signer
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.errors import DiskError
from tests.console.conftest import Run
from tests.store.models import ITEMS, Item, declare

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def health(server: Server, service: str) -> int:
    with grpc.insecure_channel(server.address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
        found: int = answer.status
        return found


@pytest.mark.long
def test_every_verb_that_reads_works_while_the_disk_is_full(
    everlog: Run, here: Path, small_disk: Path
) -> None:
    def status(url: str) -> str:
        return " ".join(everlog("-u", url, "status").out.split())  # lines are folded

    signer = Signer.generate("example.com/log")
    with EmbeddedDatabase(small_disk / "db") as db, Server({"x": db}, signer=signer) as server:
        declare(db, ITEMS)
        for number in range(1, 20):
            db.put(ITEMS, Item(id=number, text="x"))
        assert everlog("-u", server.url("x"), "checkpoint").code == 0
        with (small_disk / "ballast").open("ab") as file, pytest.raises(OSError, match="No space"):
            file.write(bytes(64 << 20))
        while not db.admin.status().writes.error:
            with contextlib.suppress(DiskError):
                db.put(ITEMS, Item(id=1000, text=os.urandom(100_000).hex()), durability="os")
        for nth, url in enumerate((server.url("x"), f"file:{small_disk / 'db'}")):
            for words in (
                ("status",),
                ("log",),
                ("history", "items", "1"),
                ("get", "items", "1"),
                ("get", "items", "1", "--at", "5"),
                ("scan", "items", "--limit", "3"),
                ("diff", "items", "3", "6"),
                ("export", "items", f"{nth}.csv"),
                ("backup", f"kept-{nth}"),
                ("follow", "--to", f"sqlite:copy-{nth}.db", "--once"),
                ("prove", "--seq", "5", "--out", f"{nth}.proof"),
                ("audit",) if nth else ("check",),
                ("check",),
                ("migrations", "proposals"),
                ("consumers",),
                ("dump",),
            ):
                ended = everlog("-u", url, *words)
                assert ended.code == 0, (words, ended.err)
        assert ": the disk is full" in status(server.url("x"))
        ended = everlog("health", server.url("x"))
        assert (ended.code, ended.out.count("writes refused since 20")) == (3, 1)
        assert " Writes refused since 20" in status(server.url("x"))
        assert everlog("-u", server.url("x"), "status", "--json").json[0]["writes"]["since_ns"] > 0
        assert " Writes refused: the disk of " in status(f"file:{small_disk / 'db'}")
        assert [health(server, name) for name in ("", "everlog.v1.Store")] == [NOT_SERVING] * 2
        assert health(server, "everlog.v1.Feed") == SERVING
        (small_disk / "ballast").unlink()
        until = time.monotonic() + 60
        while health(server, "") != SERVING:
            assert time.monotonic() < until
            threading.Event().wait(0.05)
        assert "Writes refused" not in everlog("-u", server.url("x"), "status").out
        db.put(ITEMS, Item(id=1001))
        assert list(db.admin.check()) == []
