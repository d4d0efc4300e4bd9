"""latency, latency_remote: from the start of a commit to its receipt by a remote subscriber.

500 commits a second, each on disk before followers receive it. The writer is embedded in the server, or a
third process. All processes use the clock of this machine.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from benchmarks import served
from benchmarks.helper import Helper
from benchmarks.measure import Measure, Run

RATE = 500


def everlog(run: Run, *, remote: bool = False) -> Measure:
    return _measure(run, "everlog", remote=remote)


def raw(run: Run, *, remote: bool = False) -> Measure:
    return _measure(run, "raw", remote=remote)


def _measure(run: Run, subject: str, *, remote: bool) -> Measure:
    tail = {"everlog": served.everlog_tail, "raw": served.raw_tail}[subject]
    with ExitStack() as held:
        server = held.enter_context(Helper(f"benchmarks.served:{subject}", folder=str(run.folder)))
        started = server.hear()
        port, head = started["port"], started["head"]
        writer = server
        if remote:
            writer = held.enter_context(
                Helper(f"benchmarks.served:{subject}_writer", port=port, first=head + 1)
            )
            assert writer.hear() == "ready"
        received: dict[int, int] = {}
        arrivals = tail(port)
        assert next(arrivals) == [], "expected nothing yet"
        writer.say({"write": run.n, "rate": RATE})
        begin = time.perf_counter()
        for seqs in arrivals:
            now = time.time_ns()
            for seq in seqs:
                received[seq] = now
            if head + run.n in received:
                break
        seconds = time.perf_counter() - begin
        starts = writer.hear()["starts"]
        arrivals.close()
    assert list(received) == list(range(head + 1, head + run.n + 1)), "a commit was lost or repeated"
    return run.measure(run.n, seconds, [received[head + 1 + at] - start for at, start in enumerate(starts)])
