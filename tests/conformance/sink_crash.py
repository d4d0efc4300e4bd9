"""Crash: a follower that is killed at any moment leaves whole commits, and the matching position."""

from __future__ import annotations

import random
import signal
import subprocess
import sys

import pytest

from everlog.consumers import Follower, open_sink, verify
from everlog.store.progress import Progress
from tests.conformance.sink_case import Opened, SinkCase, differences, follow, shop
from tests.conformance.sink_log import HandMadeLog

COMMITS = 400


def long_log() -> HandMadeLog:
    """Return the same log in the parent and in the child."""
    log, rng = shop(batch=7), random.Random(11)
    for number in range(COMMITS):
        names = [f"item {rng.randrange(50)}" for _ in range(4)]
        log.write(
            *(log.put("items", name=name, price=number, tags=["t"] * 20) for name in dict.fromkeys(names)),
            log.put("visits", id=number % 60),
        )
    return log


class CrashConformance(SinkCase):
    def test_a_kill_inside_of_a_transaction_takes_all_of_it_back(self, url: str, opened: Opened) -> None:
        log = long_log()
        follow(log, opened, until=20)
        child = _child(url, "inside")
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "inside\n"
        finally:
            _kill(child)
        with opened() as sink:
            assert verify(log, sink) == []
        follow(log, opened)
        assert differences(log, opened) == []

    @pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2, 3))])
    def test_a_kill_at_any_moment_leaves_whole_commits(self, url: str, opened: Opened, seed: int) -> None:
        log, rng = long_log(), random.Random(seed)
        for _ in range(4):
            child = _child(url, "follow")
            assert child.stdout is not None
            for _ in range(rng.randrange(1, 30)):
                if not child.stdout.readline():
                    break
            _kill(child)
            with opened() as sink:
                state = sink.open()
                if state is not None:
                    assert verify(log, sink) == []
        follow(log, opened)
        assert differences(log, opened) == []


def _child(url: str, what: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.conformance.sink_crash", url, what]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)


def _kill(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    with child:
        child.wait()


def main(url: str, what: str) -> None:
    """Run in the child: follow and report, or stop inside a transaction."""
    log, sink = long_log(), open_sink(url)
    if what == "follow":
        Follower(log, sink, progress=_tell, changes_max=1).run(bounded=True)
        return
    state = sink.open()
    assert state is not None
    sink.begin(())
    sink.apply(log.commits[state.position.seq :])
    sink.evolve(log.schema)  # writes the gathered rows to the target
    _say("inside")
    signal.pause()


def _tell(progress: Progress) -> None:
    _say(progress.done)


def _say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
