"""Listener: the HTTP connections of the console, with time limits for peers that are slow on purpose.

    waits for a request  ─ HEAD_S ─▶ the headers are complete     ─┐
    body                 ─ BODY_S ─▶ BODY_BYTES more have arrived  ├─ or the connection is closed
    response             ─ STALL_S ▶ the peer has read some of it ─┘

uvicorn limits the number of connections and closes idle ones, but waits without end for the rest of a
request. A few hundred peers that send one byte a minute would take all connections.

Invariants
  (1) a connection whose peer sends and reads nothing is closed.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S, BODY_S, STALL_S = 15.0, 30.0, 60.0
BODY_BYTES = 32 << 10  # in BODY_S; a large file may take long


class TimedProtocol(H11Protocol):
    """A connection, with time limits."""

    _timer: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _phase = ""
    _received = 0  # since the time limit began

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            app: Any = self.config.app
            app.state.console.limited("console_connections")  # its requests are refused
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._stall):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _watch(self) -> None:
        """Begin the time limit of what the peer has to send now."""
        state = self.conn.their_state
        phase = "head" if state is h11.IDLE else "body" if state is h11.SEND_BODY else ""
        if phase == self._phase:
            return
        self._phase = phase
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if phase == "head":
            self._timer = self.loop.call_later(HEAD_S, self.transport.abort)
        elif phase:
            self._expect_more()

    def _expect_more(self) -> None:
        self._received = 0
        self._timer = self.loop.call_later(BODY_S, self._check_body)

    def _check_body(self) -> None:
        """Close a connection whose body has hardly grown, unless the page itself does not read it."""
        if self._received < BODY_BYTES and not self.flow.read_paused:
            self.transport.abort()
        else:
            self._expect_more()
