"""Watch: how much a peer may ask without a call, and for how long it may be silent.

    frames that are no call ─▶ a bucket, which fills again with time ─▶ empty: ENHANCE_YOUR_CALM
    silence ─▶ PING ─▶ silence ─▶ dropped

Without it a peer could keep a server busy with pings, settings and calls that it takes back
(CVE-2019-9512, CVE-2019-9515, CVE-2023-44487), and one that is gone would never be noticed.
"""

from __future__ import annotations

import asyncio
from typing import Any

from everlog.rpc import http2
from everlog.rpc.http2 import Code, ProtocolError
from everlog.rpc.outbox import Outbox

HANDSHAKE_S = 10.0  # to greet, and to answer a ping
SILENCE_S = 20.0
BUCKET, PER_S = 4000.0, 2000.0  # frames: so many at once, so many a second


class Watch:
    """Watches one connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Any, out: Outbox) -> None:
        self._loop = loop
        self._transport = transport
        self._out = out
        self._left, self._at = BUCKET, loop.time()
        self._timer = loop.call_later(HANDSHAKE_S, self._drop_if_silent)
        self.heard = False  # something, since the last look

    def count(self) -> None:
        """Counts a frame that is no call. Raises ProtocolError if they are too many."""
        now = self._loop.time()
        self._left = min(BUCKET, self._left + (now - self._at) * PER_S) - 1
        self._at = now
        if self._left < 0:
            raise ProtocolError("too many frames that are no call", Code.ENHANCE_YOUR_CALM)

    def end(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        if self.heard:
            self.heard = False
            self._timer = self._loop.call_later(SILENCE_S, self._look)
        else:
            self._out.write(http2.frame(http2.PING, 0, 0, b"everlog!"))
            self._timer = self._loop.call_later(HANDSHAKE_S, self._drop_if_silent)

    def _drop_if_silent(self) -> None:
        if self.heard:
            self._look()
        else:
            self._transport.abort()
