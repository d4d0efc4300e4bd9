"""Receiver: an HTTP server that accepts notifications, as Apprise's json:// sends them."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class Receiver:
    """`received` are the accepted messages, in order; the first `refuse` requests fail."""

    def __init__(self, refuse: int = 0) -> None:
        self.received: list[dict[str, Any]] = []
        self.refuse = refuse
        self.asked = 0
        self.changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200 if receiver.take(body) else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  http.server's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        # Apprise gives up after 4 s by itself, and what a slow machine has accepted by then comes twice
        return f"json://127.0.0.1:{self._server.server_address[1]}/hook?rto=60&cto=60"

    @property
    def titles(self) -> list[str]:
        return [one["title"] for one in self.received]

    def take(self, body: dict[str, Any]) -> bool:
        with self.changed:
            self.asked += 1
            if self.asked > self.refuse:
                self.received.append(body)
            self.changed.notify_all()
            return self.asked > self.refuse

    def wait_for(self, number: int) -> list[dict[str, Any]]:
        """Return the messages when there are `number` of them."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.received) >= number, 30), self.titles
            return list(self.received)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
