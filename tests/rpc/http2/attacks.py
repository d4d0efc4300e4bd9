"""Attacks on a server, beside an honest client: python -m tests.rpc.http2.attacks [--seconds S] [NAME …]

    server     a separate process, with the methods of plain_server.py
    attacker   a separate process: sends as fast as it can, and connects again when it is disconnected
    honest     calls Echo, one call after the other, and measures each

Prints a table: the honest client's latency beside each attack and alone, when the attacker was first
disconnected, how often, and the server's memory. Ends with 1 if an attacker was not disconnected, an honest
call failed, or the server took more memory than MEMORY_MAX_MB. With --minutes it repeats all attacks.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import multiprocessing
import os
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from everlog.rpc.http2 import frames as http2
from everlog.rpc.http2.frames import Code
from everlog.rpc.http2.headers import header_block
from tests.rpc.http2.plain_server import ANSWER, COLLECT, ECHO, OPEN, STALL
from tests.rpc.raw_client import RawClient

END = http2.END_HEADERS | http2.END_STREAM
PAUSE_S = 0.002  # between calls of the honest client
CHUNK = 64  # frames that an attacker sends at once
MEMORY_MAX_MB = 400
# The first is no attack; the others are limited by what they cost, so that a slow machine takes longer.
UNBOUNDED = {"calls_of_the_health_service", "gzip_bombs", "announced_messages"}

Attack = Callable[[], Iterator[bytes]]
ATTACKS: dict[str, Attack] = {}


def attack(make: Attack) -> Attack:
    ATTACKS[make.__name__] = make
    return make


def begin(stream: int, path: str = STALL, flags: int = http2.END_HEADERS, *more: tuple[str, str]) -> bytes:
    known = [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")]
    return http2.frame(http2.HEADERS, flags, stream, header_block([*known, *more]))


def data(stream: int, body: bytes, flags: int = 0) -> bytes:
    return http2.frame(http2.DATA, flags, stream, body)


def always(*parts: bytes) -> Iterator[bytes]:
    while True:
        yield b"".join(parts) * CHUNK


def streams(first: int = 1) -> Iterator[int]:
    return count(first, 2)


@attack
def ping() -> Iterator[bytes]:
    return always(http2.frame(http2.PING, 0, 0, bytes(8)))


@attack
def settings() -> Iterator[bytes]:
    return always(http2.settings({http2.SETTINGS_INITIAL_WINDOW_SIZE: 1}), http2.settings({4: 2}))


@attack
def settings_of_many_streams() -> Iterator[bytes]:
    """The initial window opens and shuts 1,900 streams that wait for it."""
    yield http2.settings({http2.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    yield http2.window_update(0, 1 << 30)
    for stream in range(1, 3800, 2):
        yield begin(stream, ANSWER)
    yield from always(http2.settings({4: 1}), http2.settings({4: 0}))


@attack
def large_settings() -> Iterator[bytes]:
    return always(http2.frame(http2.SETTINGS, 0, 0, b"\0\x04\0\0\xff\xff" * 2700))


@attack
def settings_acks() -> Iterator[bytes]:
    return always(http2.frame(http2.SETTINGS, http2.ACK, 0))


@attack
def window_updates() -> Iterator[bytes]:
    return always(http2.window_update(0, 1))


@attack
def window_updates_of_many_streams() -> Iterator[bytes]:
    yield http2.settings({http2.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    for stream in range(1, 3800, 2):
        yield begin(stream, ANSWER)
    while True:
        for stream in range(1, 3800, 2):
            yield http2.window_update(stream, 1)


@attack
def priority() -> Iterator[bytes]:
    return always(http2.frame(http2.PRIORITY, 0, 1, bytes(5)))


@attack
def unknown_frames() -> Iterator[bytes]:
    return always(http2.frame(99, 0, 0, b"x"))


@attack
def large_unknown_frames() -> Iterator[bytes]:
    return always(http2.frame(99, 0, 1, bytes(16_000)))


@attack
def rapid_reset() -> Iterator[bytes]:
    for stream in streams():
        yield begin(stream, ECHO) + http2.rst_stream(stream, Code.CANCEL)


@attack
def made_you_reset_by_window() -> Iterator[bytes]:
    for stream in streams():
        yield begin(stream, STALL) + http2.window_update(stream, 0)


@attack
def made_you_reset_by_data() -> Iterator[bytes]:
    for stream in streams():
        yield begin(stream, STALL, END) + data(stream, b"x")


@attack
def made_you_reset_by_headers() -> Iterator[bytes]:
    for stream in streams():
        yield begin(stream, STALL, END, ("Upper", "x"))


@attack
def refused_calls() -> Iterator[bytes]:
    for stream in streams():
        yield begin(stream, "/no.Such/Method")


@attack
def continuation_flood() -> Iterator[bytes]:
    yield begin(1, STALL, 0)
    yield from always(http2.frame(http2.CONTINUATION, 0, 1, b""))


@attack
def large_continuation_flood() -> Iterator[bytes]:
    yield begin(1, STALL, 0)
    yield from always(http2.frame(http2.CONTINUATION, 0, 1, bytes(16_000)))


@attack
def hpack_bomb() -> Iterator[bytes]:
    entry = b"\x40\x03big\x7f\xb9\x16" + b"x" * 3000
    for stream in streams():
        yield http2.frame(http2.HEADERS, END, stream, entry + b"\xbe" * 12_000)


@attack
def huffman_headers() -> Iterator[bytes]:
    # 15,000 bytes of Huffman codes: "a" is five bits, 00011
    value = int("00011" * 24_000, 2).to_bytes(15_000, "big")
    block = b"\x83\x86\x84\x00\x01a\xff\x99\x74" + value
    for stream in streams():
        yield http2.frame(http2.HEADERS, END, stream, block)


@attack
def tiny_headers() -> Iterator[bytes]:
    for stream in streams():
        yield http2.frame(http2.HEADERS, END, stream, b"\x83\x86\x84" + b"\x00\x01a\x00" * 4000)


@attack
def changing_headers() -> Iterator[bytes]:
    """Every header enters the table, and evicts another."""
    for stream in streams():
        fields = b"".join(b"\x40\x01a\x05%05d" % (at + stream) for at in range(100, 500))
        yield http2.frame(http2.HEADERS, END, stream, b"\x83\x86\x84" + fields)


@attack
def table_sizes() -> Iterator[bytes]:
    for stream in streams():
        yield http2.frame(http2.HEADERS, END, stream, b"\x20" * 16_000)


@attack
def empty_data() -> Iterator[bytes]:
    yield begin(1)
    yield from always(data(1, b""))


@attack
def tiny_data() -> Iterator[bytes]:
    yield begin(1, COLLECT) + data(1, b"\0\0\x0f\0\0")
    yield from always(data(1, b"x"))


@attack
def padded_data() -> Iterator[bytes]:
    yield begin(1, COLLECT) + data(1, b"\0\0\x0f\0\0")
    yield from always(data(1, b"\xff" + bytes(256), http2.PADDED))


@attack
def more_than_the_windows() -> Iterator[bytes]:
    for stream in range(1, 200, 2):
        yield begin(stream)
    while True:
        for stream in range(1, 200, 2):
            yield data(stream, http2.message(bytes(1000)) * 16)


@attack
def data_of_ended_calls() -> Iterator[bytes]:
    yield begin(1, "/no.Such/Method")
    yield from always(data(1, b"x"))


@attack
def announced_messages() -> Iterator[bytes]:
    """Messages that are announced as large, and never completed."""
    for stream in range(1, 3800, 2):
        yield begin(stream, COLLECT) + data(stream, b"\0\x00\xff\xff\xff" + bytes(8000))
    while True:
        for stream in range(1, 3800, 2):
            yield data(stream, bytes(16_000))


@attack
def gzip_bombs() -> Iterator[bytes]:
    bomb = gzip.compress(bytes((16 << 20) + 1))
    for stream in streams():
        yield begin(stream, ECHO, http2.END_HEADERS, ("grpc-encoding", "gzip"))
        body = b"\x01" + len(bomb).to_bytes(4, "big") + bomb
        yield data(stream, body[:16_000]) + data(stream, body[16_000:], http2.END_STREAM)


@attack
def fuzzed_frames() -> Iterator[bytes]:
    chance = random.Random(7)
    while True:
        stream = chance.randrange(0, 40)
        size = chance.choice((0, 1, 4, 5, 8, 30))
        yield http2.frame(chance.randrange(0, 12), chance.randrange(256), stream, chance.randbytes(size))


@attack
def calls_of_the_health_service() -> Iterator[bytes]:
    """As fast as one can, and without reading the answers."""
    for stream in streams():
        yield begin(stream, OPEN) + data(stream, http2.message(bytes(100)), http2.END_STREAM)


class Attacked(NamedTuple):
    """What an attacker saw."""

    dropped_s: float  # until it was first disconnected; -1: never
    drops: int
    reason: str


def attacker(port: int, name: str, seconds: float, told: Any) -> None:
    """Attack for `seconds`, and put an Attacked into `told`."""
    end, first, drops, reason = time.monotonic() + seconds, -1.0, 0, ""
    while time.monotonic() < end:
        began = time.monotonic()
        found = one_connection(port, name, end - began)
        if found is None:
            break
        drops += 1
        if first < 0:
            first, reason = time.monotonic() - began, found
    told.put(Attacked(first, drops, reason))


def one_connection(port: int, name: str, seconds: float) -> str | None:
    """Attack over one connection. Return why the server ended it; None if it did not."""
    end = time.monotonic() + seconds
    received = bytearray()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as one:
        one.setblocking(False)
        pending = bytearray(http2.PREFACE + http2.settings({}))
        chunks = ATTACKS[name]()
        reads = name != "calls_of_the_health_service"
        while time.monotonic() < end:
            while len(pending) < 1 << 16:
                pending += next(chunks)
            can_read, can_write, _ = select.select([one], [one], [], 0.1)
            if can_read and reads:
                found = one.recv(1 << 16)
                if not found:
                    break
                received = received[-1000:] + found
            if can_write:
                try:
                    del pending[: one.send(pending)]
                except ConnectionError:
                    if can_read:
                        continue
                    raise
        else:
            return None
    at = received.rfind(b"\x07\x00\x00\x00\x00\x00")  # GOAWAY on stream 0
    return Code(received[at + 13]).name if at >= 0 and len(received) > at + 13 else "closed"


class Server:
    """The server, in a separate process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.rpc.http2.plain_server"],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def memory_mb(self, which: str = "VmRSS") -> float:
        with Path(f"/proc/{self.process.pid}/status").open() as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.process.communicate(timeout=60)  # closes its input, which ends it


def honest(port: int, seconds: float) -> list[float]:
    """Return the latencies of calls, in seconds, in order. Raises ConnectionError."""
    took = []
    with RawClient(f"127.0.0.1:{port}") as client:
        stream, end = 1, time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.perf_counter()
            client.call(stream, ECHO, b"honest")
            client.trailers()
            took.append(time.perf_counter() - began)
            stream += 2
            time.sleep(PAUSE_S)
    return sorted(took)


def percentile(took: list[float], share: float) -> float:
    return took[min(len(took) - 1, int(len(took) * share))] * 1e3


def beside(server: Server, name: str, seconds: float) -> tuple[list[float], Attacked]:
    """Return the honest client's latencies beside an attack, and what the attacker saw."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    child = context.Process(target=attacker, args=(server.port, name, seconds, told), daemon=True)
    child.start()
    took = honest(server.port, seconds)
    found = told.get(timeout=60)
    child.join()
    return took, found


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(ATTACKS))
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--minutes", type=float, default=0)
    options = parser.parse_args()
    end = time.monotonic() + options.minutes * 60
    problems: list[str] = []
    server = Server()
    try:
        alone = honest(server.port, options.seconds)
        say("| attack | p50 ms | p99 ms | worst ms | dropped after s | drops | reason | server MB |")
        say("|---|---:|---:|---:|---:|---:|---|---:|")
        row = "| {} | {:.1f} | {:.1f} | {:.0f} | {} | {} | {} | {:.0f} |"

        def show(name: str, took: list[float], found: Attacked | None) -> None:
            dropped = f"{found.dropped_s:.2f}" if found and found.dropped_s >= 0 else "never" if found else ""
            drops, reason = (found.drops, found.reason) if found else ("", "")
            numbers = [percentile(took, share) for share in (0.5, 0.99, 1)]
            say(row.format(name, *numbers, dropped, drops, reason, server.memory_mb()))

        show("none", alone, None)
        while True:
            for name in options.names:
                took, found = beside(server, name, options.seconds)
                show(name.replace("_", " "), took, found)
                if found.dropped_s < 0 and name not in UNBOUNDED:
                    problems.append(f"{name}: the attacker was not disconnected")
            if time.monotonic() >= end:
                break
        show("none, at the end", honest(server.port, options.seconds), None)
        peak = server.memory_mb("VmHWM")
        say(f"\nserver: at most {peak:.0f} MB")
        if peak > MEMORY_MAX_MB:
            problems.append(f"the server took {peak:.0f} MB, more than {MEMORY_MAX_MB}")
    finally:
        server.close()
    for problem in problems:
        say(problem)
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()
