"""Group commit: a queue of waiting commits, whose first one leads and commits for the others.

    queue   leader, next, next, …      the first one leads
              │      └──┴─ taken: out of the queue, done when the leader answers
              └ leaves: out of the queue, and the next one leads

No thread is needed: a ticket that enters an empty queue leads.

A waiting thread may be interrupted (Ctrl-C) at any instruction, so no state may span two of them. Each
step is one call of the queue, which happened or did not, and the queue alone says who leads. A wake-up
is not state: the woken thread looks at the queue, and a second wake-up does no harm.

Invariants
  (1) at most one ticket leads: the first of the queue;
  (2) an interrupted ticket is out of the queue, or was taken and has its answer;
  (3) a ticket that becomes the first of the queue looks, or is woken.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar


class Ticket:
    """A commit that waits to lead, or to be taken by a leader. `exclusive`: it cannot be taken."""

    exclusive = False
    turn: threading.Lock | None = None
    taken = False
    done = False


TicketT = TypeVar("TicketT", bound=Ticket)


class ExclusiveTicket(Ticket):
    """A ticket that keeps all other commits out."""

    exclusive = True


class CommitQueue:
    """A queue of tickets, of which the first leads."""

    def __init__(self) -> None:
        self.tickets: deque[Ticket] = deque()  # the leader, and those that wait; others only read it

    @property
    def waiting(self) -> Sequence[Ticket]:
        """The tickets that wait for their turn."""
        tickets = self.tickets
        return list(tickets)[1:] if len(tickets) > 1 else ()

    def enter(self, ticket: Ticket) -> bool:
        """Wait for a turn. True: the ticket leads, and must `leave`. False: it was taken and is done."""
        queue = self.tickets
        try:
            queue.append(ticket)
            if len(queue) > 1 or ticket.taken:  # otherwise it is the only one: only a leader removes it
                self._wait(ticket)
            return not ticket.done
        except BaseException:
            self._withdraw(ticket)
            raise

    def leads(self, ticket: Ticket) -> bool:
        """Whether `ticket` leads."""
        try:
            return self.tickets[0] is ticket
        except IndexError:  # the queue is empty
            return False

    def gather(self, most: int, taken: list[TicketT]) -> None:
        """Move at most `most` waiting tickets into `taken`, up to an exclusive one. Only for the leader.

        After an interrupt each of them is in `taken`, or in the queue.
        """
        while len(taken) < most and self._take(taken):
            pass

    def _take(self, taken: list[Any]) -> bool:
        """Take the next ticket; return False if there is none."""
        queue = self.tickets
        try:
            ticket = queue[1]
            if ticket.exclusive:
                return False
            taken.append(ticket)
            ticket.taken = True
            if not self._remove(ticket):
                taken.pop()  # interrupted, and has left
            return True
        except IndexError:  # the last one has just left
            return False

    def put_back(self, tickets: Sequence[Ticket]) -> None:
        """Return taken tickets without an answer to the queue, before all others."""
        for ticket in reversed(tickets):
            if self._remove(ticket) or ticket.taken:  # otherwise interrupted, and has left
                ticket.taken = False
                self.tickets.insert(1, ticket)

    def leave(self, ticket: Ticket) -> None:
        """Leave the queue if `ticket` leads it; the next one then leads. May be called twice."""
        queue = self.tickets
        try:
            if queue[0] is not ticket:
                return
        except IndexError:  # all have gone
            return
        try:
            queue.popleft()
        finally:
            if queue:
                self.wake()

    def wake(self) -> None:
        """Wake the first ticket of the queue."""
        with suppress(IndexError):
            _wake(self.tickets[0])

    @staticmethod
    def answer(tickets: Iterable[Ticket]) -> None:
        """Mark taken tickets as done, and wake their threads."""
        for ticket in tickets:
            ticket.done = True
            _wake(ticket)

    def _wait(self, ticket: Ticket) -> None:
        """Block until the ticket leads or is done."""
        turn = ticket.turn
        if turn is None:
            turn = ticket.turn = threading.Lock()
            turn.acquire()
        while not (ticket.done or self.leads(ticket)):
            turn.acquire()

    def _withdraw(self, ticket: Ticket) -> None:
        if not self._remove(ticket) and ticket.taken:
            self._wait(ticket)  # the answer is about to come
            self._remove(ticket)
        self.wake()

    def _remove(self, ticket: Ticket) -> bool:
        try:
            self.tickets.remove(ticket)
        except ValueError:
            return False
        return True


def _wake(ticket: Ticket) -> None:
    if ticket.turn is not None:
        with suppress(RuntimeError):  # it is awake
            ticket.turn.release()
