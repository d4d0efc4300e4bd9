"""Leaders and followers of a group commit, with interrupts at any point."""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import Any

import pytest

from everlog.store.tx import group_commit as module
from everlog.store.tx.group_commit import CommitQueue, Ticket
from tests.store.conftest import traces_opcodes

RETURN = dis.opmap["RETURN_VALUE"]

Ending = Callable[[CommitQueue, Ticket], None]


class Interrupt(BaseException):
    """Stands for Ctrl-C, at a chosen instruction."""


def interrupted(call: Callable[[], object], at: int) -> bool:
    """Run the call and interrupt it before its instruction `at`, in this module's code. Return whether it got
    so far. Python checks for interrupts at calls and jumps, so returns are left out.
    """
    left, before = at, sys.gettrace()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_code.co_code[frame.f_lasti] != RETURN:
            left -= 1
            if left < 0:
                sys.settrace(None)
                frame.f_trace = None
                raise Interrupt
        return trace

    sys.settrace(trace)
    try:
        call()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def goes(queue: CommitQueue, first: Ticket) -> None:
    queue.leave(first)


def takes_along(queue: CommitQueue, first: Ticket) -> None:
    taken: list[Ticket] = []
    queue.gather(9, taken)
    queue.leave(first)
    queue.answer(taken)


@traces_opcodes
@pytest.mark.parametrize("ends", [goes, takes_along])
def test_one_who_is_interrupted_at_any_instruction_holds_nobody_up(ends: Ending) -> None:
    for at in count():
        queue, ticket, over, first = CommitQueue(), Ticket(), threading.Event(), Ticket()
        assert queue.enter(first)

        def lead(queue: CommitQueue = queue, over: threading.Event = over, first: Ticket = first) -> None:
            while not queue.waiting and not over.is_set():
                pass
            ends(queue, first)

        leader = threading.Thread(target=lead)
        leader.start()
        came_so_far = interrupted(lambda queue=queue, ticket=ticket: queue.enter(ticket), at)  # type: ignore[misc]
        over.set()
        leader.join()
        if not came_so_far:
            assert at > 20
            queue.leave(ticket)
            nobody_is_held_up(queue)
            return
        assert ticket not in queue.waiting, at
        nobody_is_held_up(queue)


def test_one_who_is_interrupted_as_the_first_leads_no_longer() -> None:
    queue, ticket = CommitQueue(), Ticket()
    for at in count():
        if not interrupted(lambda: queue.enter(ticket), at):
            break
        nobody_is_held_up(queue)
    queue.leave(ticket)


def test_those_whom_an_interrupted_leader_was_taking_along_wait_on() -> None:
    for at in count():
        queue, first = CommitQueue(), Ticket()
        assert queue.enter(first)
        tickets = [Ticket() for _ in range(3)]
        threads = []
        for number, ticket in enumerate(tickets, 1):

            def take_turn(queue: CommitQueue = queue, ticket: Ticket = ticket) -> None:
                queue.enter(ticket)
                queue.leave(ticket)

            threads.append(threading.Thread(target=take_turn))
            threads[-1].start()
            while len(queue.waiting) < number:
                pass
        taken: list[Ticket] = []
        came_so_far = interrupted(lambda queue=queue, taken=taken: queue.gather(9, taken), at)  # type: ignore[misc]
        if came_so_far:
            queue.put_back(taken)
            taken.clear()
        assert taken == ([] if came_so_far else tickets)
        assert [*queue.waiting] == (tickets if came_so_far else [])
        queue.leave(first)
        queue.answer(taken)
        for thread in threads:
            thread.join()
        if not came_so_far:
            break


def nobody_is_held_up(queue: CommitQueue) -> None:
    assert not queue.waiting
    done = threading.Event()

    def take_turn() -> None:
        ticket = Ticket()
        assert queue.enter(ticket)
        queue.leave(ticket)
        done.set()

    threading.Thread(target=take_turn, daemon=True).start()
    assert done.wait(30)
