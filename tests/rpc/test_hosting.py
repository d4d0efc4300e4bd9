"""Hosting: what takes long, and those who asked for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from everlog.feed.embedded import EmbeddedDatabase
from everlog.rpc.remote import RemoteDatabase
from everlog.rpc.server import Server


class Endless(EmbeddedDatabase):
    """A database in which a check finds something for as long as it is looked for."""

    ended: threading.Event

    def check(self, progress: Any = None) -> Iterator[str]:
        try:
            while True:
                yield "a problem"
        finally:
            self.ended.set()


def test_a_check_ends_with_the_client_that_asked_for_it(tmp_path: Path) -> None:
    with Endless(tmp_path / "x") as db, Server({"x": db}) as server:
        db.ended = threading.Event()
        with RemoteDatabase(server.url("x")) as remote:
            assert next(iter(remote.check())) == "a problem"
        assert db.ended.wait(30)
