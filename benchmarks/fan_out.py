"""fan_out: 1,000 subscribers, 200 commits a second to all of them.

Three lines: `fan_out`, the time from the start of a commit to its receipt, with the server's memory;
`fan_out_writer`, the duration of a commit meanwhile; `fan_out_alone`, its duration without subscribers. The
writer is embedded in the server. The subscribers are one process that reads HTTP/2 frames and decodes as
little as possible (frames.py): a thousand real clients would use the whole machine, and be measured instead
of the server.
"""

from benchmarks import served
from benchmarks.frames import Subscribers
from benchmarks.helper import Helper
from benchmarks.measure import Measure, Run

RATE = 200
SUBSCRIBERS = 1000
CONNECTIONS = 10


def everlog(run: Run) -> list[Measure]:
    return _measure(run, "everlog", served.EVERLOG_METHOD, served.everlog_request())


def raw(run: Run) -> list[Measure]:
    return _measure(run, "raw", served.RAW_METHOD, b"")


def _measure(run: Run, subject: str, method: str, request: bytes) -> list[Measure]:
    """Measure `run.n` commits, with fewer subscribers if that is less than the full size."""
    count = min(SUBSCRIBERS, run.n)
    with Helper(f"benchmarks.served:{subject}", folder=str(run.folder)) as server:
        started = server.hear()
        first = started["head"] + 1
        alone = server.ask({"write": run.n, "rate": RATE})
        first += run.n
        last = first + run.n - 1
        with Subscribers(started["port"], method, request, count, min(CONNECTIONS, count)) as subscribers:
            server.say({"write": run.n, "rate": RATE})
            seconds = subscribers.read_until(last)
            busy = server.hear()
        waits = []
        for receipts in subscribers.receipts.values():
            assert list(receipts) == list(range(first, last + 1)), "a commit was lost or repeated"
            waits += [received - busy["starts"][seq - first] for seq, received in receipts.items()]
    rss_mb = busy["rss_mb"]
    return [
        run.measure(run.n * count, seconds, waits, rss_mb=rss_mb),
        run.measure(run.n, sum(busy["took"]) / 1e9, busy["took"], bench="fan_out_writer", rss_mb=rss_mb),
        run.measure(
            run.n, sum(alone["took"]) / 1e9, alone["took"], bench="fan_out_alone", rss_mb=alone["rss_mb"]
        ),
    ]
