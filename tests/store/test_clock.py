"""The time of commits."""

from __future__ import annotations

import logging

import pytest

from everlog.store.clock import JUMP_S, Clock


def set_wall(monkeypatch: pytest.MonkeyPatch, clock: Clock, time_ns: int) -> None:
    monkeypatch.setattr(clock, "_wall", lambda: time_ns)


def test_time_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(last_ns=0)
    now = clock.now()
    set_wall(monkeypatch, clock, now - 10**12)
    assert clock.now() == now
    set_wall(monkeypatch, clock, now + 1)
    assert clock.now() == now + 1


def test_time_goes_on_from_the_last_commit_though_the_clock_is_behind() -> None:
    ahead = 2**62
    assert Clock(last_ns=ahead).now() == ahead


def test_a_jump_forward_is_loud(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    now = clock.now()
    assert clock.jumped_s == 0
    set_wall(monkeypatch, clock, now + int(2 * JUMP_S * 1e9))
    with caplog.at_level(logging.WARNING, "everlog"):
        clock.now()
    assert clock.jumped_s == pytest.approx(2 * JUMP_S, rel=0.01)
    assert "jumped forward by 12" in caplog.text


def test_a_long_time_without_commits_is_no_jump() -> None:
    clock = Clock(last_ns=1)
    clock.now()
    assert clock.jumped_s == 0
