"""What a thread tells a client that does not take it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from everlog.rpc.server import host as room
from everlog.rpc.server.host import MOST, Telling
from everlog.store.errors import ClosedError


def test_of_what_passes_no_more_waits_than_a_bound_and_what_counts_is_kept() -> None:
    async def run() -> tuple[int, list[str]]:
        telling = Telling[str](threading.Event(), goes_on=True)

        def work() -> None:
            for number in range(100_000):
                telling.passing(f"{number}")
            telling.tell("finished")
            telling.end()

        await asyncio.to_thread(work)  # nobody takes anything meanwhile
        return telling.waiting, [item async for item in telling]

    waiting, found = asyncio.run(run())
    assert waiting == MOST + 1
    assert found == [*map(str, range(MOST)), "finished"]


def test_work_that_does_not_go_on_waits_for_its_client_and_loses_nothing() -> None:
    async def run() -> list[int]:
        telling = Telling[int](threading.Event(), goes_on=False)

        def work() -> None:
            for number in range(10 * MOST):
                telling.tell(number)
                assert telling.waiting <= MOST
            telling.end()

        working = asyncio.get_running_loop().run_in_executor(None, work)
        found = [item async for item in telling]
        await working
        return found

    assert asyncio.run(run()) == list(range(10 * MOST))


def test_a_client_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "STALL_S", 0.01)

    async def run() -> None:
        telling = Telling[int](threading.Event(), goes_on=False)

        def work() -> None:
            for number in range(MOST + 1):
                telling.tell(number)

        with pytest.raises(ClosedError, match="has taken nothing of it"):
            await asyncio.to_thread(work)

    asyncio.run(run())


def test_without_its_client_work_goes_on_or_ends() -> None:
    async def run() -> None:
        for goes_on in (True, False):
            telling = Telling[int](threading.Event(), goes_on=goes_on)
            telling.leave()
            if goes_on:
                telling.tell(1)
                telling.passing(2)
                assert telling.waiting == 0
            else:
                for told in (telling.tell, telling.passing):
                    with pytest.raises(ClosedError, match="nobody waits"):
                        told(1)

    asyncio.run(run())
