"""The responses of a thread to a client that does not read them."""

from __future__ import annotations

import asyncio
import threading

import pytest

from everlog.rpc.server import host as room
from everlog.rpc.server.host import QUEUED_MAX, ResponseStream
from everlog.store.errors import ClosedError


def test_of_what_passes_no_more_waits_than_a_bound_and_what_counts_is_kept() -> None:
    async def run() -> tuple[int, list[str]]:
        responses = ResponseStream[str](threading.Event(), goes_on=True)

        def work() -> None:
            for number in range(100_000):
                responses.send_progress(f"{number}")
            responses.send("finished")
            responses.end()

        await asyncio.to_thread(work)  # no client reads meanwhile
        return responses.waiting, [item async for item in responses]

    waiting, found = asyncio.run(run())
    assert waiting == QUEUED_MAX + 1
    assert found == [*map(str, range(QUEUED_MAX)), "finished"]


def test_work_that_does_not_go_on_waits_for_its_client_and_loses_nothing() -> None:
    async def run() -> list[int]:
        responses = ResponseStream[int](threading.Event(), goes_on=False)

        def work() -> None:
            for number in range(10 * QUEUED_MAX):
                responses.send(number)
                assert responses.waiting <= QUEUED_MAX
            responses.end()

        working = asyncio.get_running_loop().run_in_executor(None, work)
        found = [item async for item in responses]
        await working
        return found

    assert asyncio.run(run()) == list(range(10 * QUEUED_MAX))


def test_a_client_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "STALL_S", 0.01)

    async def run() -> None:
        responses = ResponseStream[int](threading.Event(), goes_on=False)

        def work() -> None:
            for number in range(QUEUED_MAX + 1):
                responses.send(number)

        with pytest.raises(ClosedError, match="has read nothing of this call"):
            await asyncio.to_thread(work)

    asyncio.run(run())


def test_without_its_client_work_goes_on_or_ends() -> None:
    async def run() -> None:
        for goes_on in (True, False):
            responses = ResponseStream[int](threading.Event(), goes_on=goes_on)
            responses.leave()
            if goes_on:
                responses.send(1)
                responses.send_progress(2)
                assert responses.waiting == 0
            else:
                for told in (responses.send, responses.send_progress):
                    with pytest.raises(ClosedError, match="client of this call is gone"):
                        told(1)

    asyncio.run(run())
