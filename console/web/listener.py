"""Listener: the HTTP connections of the console, their number, and time limits for peers that are slow on
purpose.

    connects             ─ Places ─▶ it is one of CONNECTIONS_MAX, CONNECTIONS_EACH of its address ─ or 503
    waits for a request  ─ HEAD_S ─▶ the headers are complete     ─┐
    body                 ─ BODY_S ─▶ BODY_BYTES more have arrived  ├─ or the connection is closed
    response             ─ STALL_S ▶ the peer has read some of it ─┘
    close while it sends ─ LINGER_S ▶ it has read the response and closed, or sent LINGER_BYTES more

uvicorn closes idle connections, but waits without end for the rest of a request: a few hundred peers that
send one byte a minute would take all connections. Beyond its limit it accepts further connections, and
refuses all requests, also those of connections that were there before. And it closes a
connection at once after a refusal: TCP then answers what still arrives with a reset, and the peer loses the
response that states its mistake.

Invariants
  (1) a connection whose peer sends and reads nothing is closed;
  (2) a peer that is refused, also in the middle of its request, can read the response (RFC 9112, section
      9.6);
  (3) a connection that has a place keeps it while others connect; no address holds all places, but a proxy
      that the operator has named may, because its connections are of many.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from everlog.console.web.visitors import Proxies
from everlog.rpc.address import machine_of
from everlog.rpc.http2.listener import files_max

CONNECTIONS_MAX, CONNECTIONS_EACH = 1000, 250  # of all, and of one address
FILES_SHARE = 8  # an eighth of the descriptors; the gRPC server and the databases have the others
REFUSED_MAX = 100  # refused connections that wait until the peer has read why
HEAD_S, BODY_S, STALL_S = 15.0, 30.0, 60.0
BODY_BYTES = 32 << 10  # in BODY_S; a large file may take long
LINGER_S, LINGER_BYTES = 2.0, 1 << 20


class Places:
    """The open connections, and their addresses. Only for the event loop.

    `limited(limit, address, sentence)` is called for each refusal.
    """

    def __init__(self, proxies: Proxies, limited: Callable[[str, str, str], None]) -> None:
        self._proxies, self._limited = proxies, limited
        self._of = Counter[str]()
        self._taken = 0
        self._most = min(CONNECTIONS_MAX, files_max() // FILES_SHARE)
        self.refused = 0  # connections that are refused, and not closed yet

    def take(self, host: str) -> str | None:
        """Take a place for a connection from a host, and return its address, for `leave`; None: it has
        none."""
        address = machine_of(host)
        why = ""
        if self._taken >= self._most:
            why = f"{self._most} connections are open"
        elif self._of[address] >= CONNECTIONS_EACH and not self._proxies.has(host):
            why = f"{CONNECTIONS_EACH} connections of this address are open"
        if why:
            self._limited("console_connections", address, f"a connection is refused: {why}")
            return None
        self._of[address] += 1
        self._taken += 1
        return address

    def leave(self, address: str) -> None:
        self._taken -= 1
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]


_BODY = b"too many connections to this console; close some, or try again later\n"
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


class LingeringTransport:
    """A transport that closes its side first, if the peer of `protocol` is still sending."""

    def __init__(self, transport: Any, protocol: TimedProtocol) -> None:
        self.lingers = False
        self._transport, self._protocol = transport, protocol
        self._left = LINGER_BYTES

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.lingers or bool(self._transport.is_closing())

    def close(self) -> None:
        if self.is_closing() or not self._protocol.is_receiving() or not self._transport.can_write_eof():
            self._transport.close()  # TLS waits for the peer by itself
            return
        self._linger()

    def refuse(self, response: bytes) -> None:
        """Send a response to a peer, whatever it sends, and close."""
        self._transport.write(response)
        if self._transport.can_write_eof():
            self._linger()
        else:
            self._transport.close()

    def _linger(self) -> None:
        self.lingers = True
        self._transport.write_eof()
        self._transport.resume_reading()
        self._protocol.loop.call_later(LINGER_S, self._transport.close)

    def discard(self, size: int) -> None:
        """Count received bytes that nobody reads."""
        self._left -= size
        if self._left < 0:
            self._transport.close()


class TimedProtocol(H11Protocol):
    """A connection, with time limits."""

    _timer: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _phase = ""
    _received = 0  # since the time limit began
    _place: str | None = None

    def __init__(self, *, places: Places, **how: Any) -> None:
        super().__init__(**how)
        self._places = places

    def connection_made(self, transport: Any) -> None:
        self._lingering = LingeringTransport(transport, self)
        super().connection_made(cast("asyncio.Transport", self._lingering))
        self._place = self._places.take(self.client[0] if self.client else "")
        if self._place is not None:
            self._watch()
            return
        self._places.refused += 1
        if self._places.refused > REFUSED_MAX:
            transport.abort()
        else:
            self._lingering.refuse(_REFUSAL)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._place is not None:
            self._places.leave(self._place)
        else:
            self._places.refused -= 1
        for timer in (self._timer, self._stall):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._lingering.lingers:
            self._lingering.discard(len(data))
            return
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

    def is_receiving(self) -> bool:
        """Return whether the peer has not sent its whole request, or something after it."""
        return self.conn.their_state in {h11.SEND_BODY, h11.ERROR} or bool(self.conn.trailing_data[0])

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
