"""Turns: who leads when many want to commit at once.

    first come ─▶ leads ─▶ takes along those who wait ─▶ answers them ─▶ hands the lead on

There is no thread for it: whoever comes while nobody leads, leads. The lead is a lock that passes
from one to the next without being free in between, as long as somebody waits.

Invariants
  (1) at most one leads;
  (2) nobody waits while nobody leads: who came just as the lead was given up takes it.
"""

from __future__ import annotations

import threading
from collections import deque


class Ticket:
    """Somebody who wants to lead, or to be taken along. `alone`: not to be taken along."""

    alone = False
    turn: threading.Lock | None = None
    done = False


class Turns:
    """A queue of tickets, and the lead."""

    def __init__(self) -> None:
        self.waiting: deque[Ticket] = deque()
        self._lead = threading.Lock()

    def enter(self, ticket: Ticket) -> bool:
        """Waits for its turn. True: leads, and must `leave`. False: was taken along and is done."""
        if self._lead.acquire(blocking=False):
            return True
        turn = ticket.turn = threading.Lock()
        turn.acquire()
        self.waiting.append(ticket)
        if self._lead.acquire(blocking=False):
            self.leave()  # the lead was given up in between: the first who waits takes it
        try:
            turn.acquire()
        except BaseException:  # interrupted: nobody must wait for one who has gone
            try:
                self.waiting.remove(ticket)
            except ValueError:  # its turn has come, or is about to
                turn.acquire()
                if not ticket.done:
                    self.leave()
            raise
        return not ticket.done

    def gather(self, most: int) -> list[Ticket]:
        """The leader takes along those who wait, up to one that wants to be alone."""
        taken: list[Ticket] = []
        while self.waiting and len(taken) < most and not self.waiting[0].alone:
            taken.append(self.waiting.popleft())
        return taken

    def leave(self) -> None:
        """The leader hands the lead to the first who waits, or gives it up."""
        while True:
            if self.waiting:
                _wake(self.waiting.popleft())
                return
            self._lead.release()
            if not self.waiting or not self._lead.acquire(blocking=False):
                return

    @staticmethod
    def answer(tickets: list[Ticket]) -> None:
        """Those who were taken along are done."""
        for ticket in tickets:
            ticket.done = True
            _wake(ticket)


def _wake(ticket: Ticket) -> None:
    assert ticket.turn is not None
    ticket.turn.release()
