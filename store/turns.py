"""Turns: who leads when many want to commit at once.

    queue   leader, next, next, …      the first one leads
              │      └──┴─ taken along: out of the queue, done when the leader answers
              └ leaves: out of the queue, and so the next one leads

There is no thread for it: whoever comes while nobody leads, leads.

Who waits may be interrupted (Ctrl-C) at any instruction, so no state may lie between two of them.
Each step is one call of the queue's, which happened or did not, and who leads follows from the
queue. Waking is no state: whoever is woken looks for himself, and being woken twice is nothing.

Invariants
  (1) at most one leads: the first of the queue;
  (2) who is interrupted while he waits is out of the queue, or was taken along and has his answer;
  (3) whoever becomes the first of the queue looks, or is woken.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress


class Ticket:
    """Somebody who wants to lead, or to be taken along. `alone`: not to be taken along."""

    alone = False
    turn: threading.Lock | None = None
    taken = False
    done = False


class Alone(Ticket):
    """Somebody who wants no one to commit meanwhile."""

    alone = True


class Turns:
    """A queue of tickets, of which the first leads."""

    def __init__(self) -> None:
        self._queue: deque[Ticket] = deque()

    @property
    def waiting(self) -> Sequence[Ticket]:
        """Those who wait for their turn now."""
        queue = self._queue
        return list(queue)[1:] if len(queue) > 1 else ()

    def enter(self, ticket: Ticket) -> bool:
        """Waits for its turn. True: leads, and must `leave`. False: was taken along and is done."""
        queue = self._queue
        try:
            queue.append(ticket)
            if len(queue) > 1 or ticket.taken:  # else it is the only one, for none but a leader removes it
                self._wait(ticket)
            return not ticket.done
        except BaseException:
            self._withdraw(ticket)
            raise

    def gather(self, most: int) -> list[Ticket]:
        """The leader takes along those who wait, up to one that wants to be alone."""
        queue, taken = self._queue, list[Ticket]()
        try:
            while len(taken) < most and len(queue) > 1:
                ticket = queue[1]
                if ticket.alone:
                    break
                ticket.taken = True
                taken.append(ticket)
                if not self._remove(ticket):
                    taken.pop()  # it was interrupted, and has gone
            return taken
        except IndexError:  # the last one has gone, in this very moment
            return taken
        except BaseException:  # interrupted: they wait on
            for ticket in reversed(taken):
                self._remove(ticket)
                queue.insert(1, ticket)
            raise

    def leave(self) -> None:
        """The leader goes; the first who waits leads."""
        queue = self._queue
        try:
            queue.popleft()
        finally:
            if queue:
                self._wake_first()

    @staticmethod
    def answer(tickets: Iterable[Ticket]) -> None:
        """Those who were taken along are done."""
        for ticket in tickets:
            ticket.done = True
            _wake(ticket)

    def _leads(self, ticket: Ticket) -> bool:
        try:
            return self._queue[0] is ticket
        except IndexError:  # it was taken along, and all others have gone
            return False

    def _wait(self, ticket: Ticket) -> None:
        turn = ticket.turn
        if turn is None:
            turn = ticket.turn = threading.Lock()
            turn.acquire()
        while not (ticket.done or self._leads(ticket)):
            turn.acquire()

    def _withdraw(self, ticket: Ticket) -> None:
        if not self._remove(ticket) and ticket.taken:
            self._wait(ticket)  # the answer is about to come
            self._remove(ticket)
        self._wake_first()

    def _remove(self, ticket: Ticket) -> bool:
        try:
            self._queue.remove(ticket)
        except ValueError:
            return False
        return True

    def _wake_first(self) -> None:
        with suppress(IndexError):
            _wake(self._queue[0])


def _wake(ticket: Ticket) -> None:
    if ticket.turn is not None:
        with suppress(RuntimeError):  # it is awake
            ticket.turn.release()
