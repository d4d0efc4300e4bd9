"""Limits: what a peer may cost, and how connections share the event loop.

    frame ─▶ useful? ─ yes ─▶ earned grows with what was sent and answered
                └──── no ──▶ PeerLimits.count: earned, then a bucket ─ empty ─▶ ENHANCE_YOUR_CALM

    input ─▶ one slice at once ─ more? ─▶ Turns: further slices, within TURN_S a turn for all connections

    bytes ─▶ Bucket, Meter: a rate of a caller or an address, if the server limits them

Frames that belong to no call, cancelled calls and silence cost a server work and a peer nothing
(CVE-2019-9512, CVE-2019-9515, CVE-2023-44487, CVE-2025-8671). What a peer may have of them grows with the
useful work on its connection, so that fast clients, which answer messages with WINDOW_UPDATE and PING, are
never disconnected.

Invariants
  (1) a peer that does nothing useful is disconnected after BUCKET units, or PER_S units a second;
  (2) a peer without a whole preface is disconnected after CHECK_S, one that sends a frame or a header block
      too slowly within 2 * CHECK_S, and one that is silent, and does not answer a PING, within 4 * CHECK_S;
  (3) a connection with much input delays others by at most TURN_S a turn of the loop, with all others that
      have much input, and one frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from everlog.rpc.http2 import frames
from everlog.rpc.http2.frames import Code, ProtocolError

CHECK_S = 10.0  # for the preface, for a frame, and for the answer to a ping
PATIENCE = 2  # checks that found silence, before a ping
LINGER_S, LINGER_BYTES = 1.0, 1 << 20  # for the last frames of a connection, and what it sends meanwhile

BUCKET, PER_S = 4000.0, 2000.0  # units in a burst, and per second
EARNED_MAX = 200_000  # units that useful work can save

# Units. A frame that belongs to no call, such as PING, WINDOW_UPDATE or one of an unknown type, costs one.
SETTINGS_COST = 10  # and one for each SHUT streams that it may open
SHUT = 16
RESET_COST = 2  # of a call that had no response yet
REFUSED_COST = 2  # a call without a method, a token, …
FAULT_COST = 4  # the peer broke a rule within a stream
BOMB_COST = 500  # an inflated message was too large
BLOCK_BYTES, BLOCK_BYTES_FREE = 64, 2048  # of a header block: a unit for each of the first, above the second
BLOCK_FIELDS, BLOCK_FIELDS_FREE = 8, 32

ANSWERED = 8  # units that an answered call earns; messages earn as well, in Outbox

TRIM_BYTES, TRIM_S = 8 << 20, 5.0  # kept for a peer that has gone, and a pause

SLICE_S = 0.0005
SLICE_FRAMES, SLICE_CALLS = 64, 16
TURN_STREAMS = 32  # that continue, or end, together
TURN_S = 0.0005


def block_cost(size: int, fields: int) -> int:
    """Return what a header block costs. It is earned back when the call is answered."""
    return max(0, size - BLOCK_BYTES_FREE) // BLOCK_BYTES + max(0, fields - BLOCK_FIELDS_FREE) // BLOCK_FIELDS


class PeerLimits:
    """The limits of one connection. `earned` of `out` counts units for useful work."""

    def __init__(self, loop: asyncio.AbstractEventLoop, out: Any, drop: Callable[[], None]) -> None:
        self._loop = loop
        self._out = out
        self._drop = drop
        self._left, self._at = BUCKET, loop.time()
        self._silent = PATIENCE  # checks without a whole frame; the preface must come before the first
        self._timer = loop.call_later(CHECK_S, self._check)
        self.heard = False  # a whole frame was received since the last check
        self.partial = False  # a part of a frame, or of a header block, was received

    def count(self, cost: int) -> None:
        """Count `cost` units. Raises ProtocolError if there are too many."""
        earned = self._out.earned
        if earned >= cost:
            self._out.earned = min(earned, EARNED_MAX) - cost
            return
        now = self._loop.time()
        self._left = min(BUCKET, self._left + (now - self._at) * PER_S) - cost
        self._at = now
        if self._left < 0:
            raise ProtocolError("too many frames that belong to no call", Code.ENHANCE_YOUR_CALM)

    def end(self) -> None:
        self._timer.cancel()

    def _check(self) -> None:
        self._silent = 0 if self.heard else self._silent + 1
        if self._silent > PATIENCE or (self._silent and self.partial):
            self._drop()
            return
        if self._silent == PATIENCE:
            self._out.write(frames.frame(frames.PING, 0, 0, b"everlog!"))
        self.heard = False
        self._timer = self._loop.call_later(CHECK_S, self._check)


class Bucket:
    """What may be taken: `rate` a second, and what one second saves. `left` is negative if more was taken."""

    __slots__ = ("_at", "left", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.left = rate
        self._at = time.monotonic()  # when what has come back was added

    def wait_s(self, now: float) -> float:
        """Return the time until nothing is owed, from `now`, a monotonic time."""
        if self.left >= 0:
            return 0.0
        self.left += min(1.0, max(0.0, now - self._at)) * self.rate
        self._at = now
        return max(0.0, -self.left / self.rate)


class Meter:
    """Sent bytes: `held` while more were sent than the rate allows. Use it in the event loop."""

    __slots__ = ("_loop", "_waiting", "bucket", "held")

    def __init__(self, rate: float, loop: asyncio.AbstractEventLoop) -> None:
        self.bucket = Bucket(rate)
        self._loop = loop
        self.held = False
        self._waiting: dict[object, Callable[[], None]] = {}

    def take(self, size: int) -> None:
        """Count sent bytes."""
        bucket = self.bucket
        bucket.left -= size
        if bucket.left < 0 and not self.held and (wait_s := bucket.wait_s(self._loop.time())):
            self.held = True
            self._loop.call_later(wait_s, self._release)

    def wait(self, whose: object, resume: Callable[[], None]) -> None:
        """Call `resume` once it is no longer held."""
        self._waiting[whose] = resume

    def forget(self, whose: object) -> None:
        self._waiting.pop(whose, None)

    def _release(self) -> None:
        wait_s = self.bucket.wait_s(self._loop.time())
        if wait_s:
            self._loop.call_later(wait_s, self._release)
            return
        self.held = False
        while self._waiting and not self.held:
            whose = next(iter(self._waiting))
            self._waiting.pop(whose)()


class Meters:
    """Several meters as one: `held` while one of them is."""

    __slots__ = ("_all",)

    def __init__(self, meters: tuple[Meter | Meters, ...]) -> None:
        self._all = meters

    @property
    def held(self) -> bool:
        return any(one.held for one in self._all)

    def take(self, size: int) -> None:
        """Count sent bytes."""
        for one in self._all:
            one.take(size)

    def wait(self, whose: object, resume: Callable[[], None]) -> None:
        """Call `resume` once one that holds no longer does; another may hold then."""
        held = next((one for one in self._all if one.held), self._all[0])
        held.wait(whose, resume)

    def forget(self, whose: object) -> None:
        for one in self._all:
            one.forget(whose)


class Reader(Protocol):
    """A connection, as Turns uses it."""

    def read_slice(self) -> bool:
        """Handle a slice of the input; return whether there is more."""


class Turns:
    """The order in which connections with more input than one slice are served."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._busy: deque[Reader] = deque()
        self._scheduled = self._trimming = False

    def join(self, reader: Reader) -> None:
        """Serve the reader until it has no more input."""
        self._busy.append(reader)
        self._schedule()

    def _turn(self) -> None:
        self._scheduled = False
        busy, end = self._busy, self._loop.time() + TURN_S
        try:
            while busy:
                reader = busy.popleft()
                if reader.read_slice():
                    busy.append(reader)
                if self._loop.time() >= end:
                    break
        finally:
            self._schedule()

    def trim(self) -> None:
        """Return memory to the system soon: malloc keeps what a peer took that had much."""
        if not self._trimming:
            self._trimming = True
            self._loop.call_later(TRIM_S, self._trim)

    def _trim(self) -> None:
        self._trimming = False
        with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
            trim = ctypes.CDLL(None).malloc_trim
            threading.Thread(target=trim, args=(0,), name="everlog-trim", daemon=True).start()

    def _schedule(self) -> None:
        if self._busy and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)
