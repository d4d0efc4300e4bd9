"""Telling: what a thread that works tells the client who asked, and no more of it than can wait.

    thread ─ tell ─▶ at most MOST wait ─▶ event loop ─▶ client, as fast as it takes them

What passes (progress) is left out while a client does not keep up. What counts is kept: of work that
goes on without its client there is little of it; else the thread waits for the client, and gives up
after STALL_S.

Invariants
  (1) what waits for a client is bounded, however slow it is.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Generic, TypeVar

from google.protobuf.message import Message

from everlog.store.errors import ClosedError

MOST, BYTES_MOST = 64, 1 << 20  # messages that wait, and bytes: no more after the one that brings them there
STALL_S = 60.0

T = TypeVar("T")


class Telling(Generic[T]):
    """One call's. Made in the event loop; `tell` and `passing` are the thread's."""

    def __init__(self, stopped: threading.Event, *, goes_on: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = stopped
        self._goes_on = goes_on
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._arrived = asyncio.Event()
        self._left = self._ended = False

    def tell(self, item: T) -> None:
        """Tells what counts. Raises ClosedError where nobody waits for it and it does not go on."""
        with self._changed:
            if not self._goes_on and not self._changed.wait_for(self._has_room, STALL_S):
                raise ClosedError(f"whoever asked for this has taken nothing of it for {STALL_S:g} s")
            self._check()
            if not self._left:
                size = item.ByteSize() if isinstance(item, Message) and not self._goes_on else 0
                self._items.append((item, size))
                self._bytes += size
        self._wake()

    def passing(self, item: T) -> None:
        """Tells what is soon out of date: not at all, if too much waits already. Raises ClosedError
        as `tell`, and once the server stops."""
        if self._stopped.is_set():
            raise ClosedError("the server stops, and what was asked for with it; ask again")
        with self._changed:
            self._check()
            if self._left or len(self._items) >= MOST:
                return
            self._items.append((item, 0))
        self._wake()

    def end(self) -> None:
        """The thread tells no more."""
        with self._changed:
            self._ended = True
        self._wake()

    def leave(self) -> None:
        """The client is gone."""
        with self._changed:
            self._left = True
            self._items.clear()
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """How many wait for the client."""
        return len(self._items)

    def __aiter__(self) -> Telling[T]:
        return self

    async def __anext__(self) -> T:
        while True:
            self._arrived.clear()
            with self._changed:
                if self._items:
                    item, size = self._items.popleft()
                    self._bytes -= size
                    self._changed.notify_all()
                    return item
                if self._ended:
                    raise StopAsyncIteration
            await self._arrived.wait()

    def _has_room(self) -> bool:
        return self._left or (len(self._items) < MOST and self._bytes < BYTES_MOST)

    def _check(self) -> None:
        if self._left and not self._goes_on:
            raise ClosedError("nobody waits for this any more")

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the loop is closed, and with it whoever waited
            self.leave()
