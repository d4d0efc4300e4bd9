"""Progress: how far long work is, shown on standard error.

    on a terminal     load flights:  54%|█████▍    | 181k/337k [00:01<00:01, 112k rows/s]
    elsewhere, CI     load flights: 181,000 of 336,776 rows, 112,000 a second

Elsewhere a line comes every few seconds and when a step that had time for one ends, so that a log
of CI stays short.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from everlog.store.progress import OnProgress, Progress

LINE_EVERY_S = 5.0


class Shown:
    """Shows one step at a time; a new one ends the one before. Used as an OnProgress."""

    def __init__(self, out: TextIO | None = None, *, every_s: float = LINE_EVERY_S) -> None:
        self._out = out or sys.stderr
        self._every_s = every_s
        self._is_terminal = self._out.isatty() and not os.environ.get("CI")
        self._bar: Any = None
        self._last: Progress | None = None
        self._began = self._told = 0.0
        self._from = 0

    def __call__(self, now: Progress) -> None:
        if self._last is None or self._last.step != now.step:
            self.end()
            self._began = self._told = time.monotonic()
            self._from = now.done
        self._last = now
        if self._is_terminal:
            self._draw(now)
        elif time.monotonic() - self._told >= self._every_s:
            self._write(now)

    def end(self) -> None:
        """The step at hand is over."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._last is not None and not self._is_terminal and self._told > self._began:
            self._write(self._last)  # a step that had a line has a last one
        self._last = None

    def _draw(self, now: Progress) -> None:
        if self._bar is None:
            from tqdm import tqdm  # type: ignore[import-untyped]

            self._bar = tqdm(
                desc=now.step,
                total=now.total,
                initial=self._from,
                unit=f" {now.unit}",
                unit_scale=True,
                file=self._out,
                dynamic_ncols=True,
            )
        if now.total != self._bar.total:
            self._bar.total = now.total
        self._bar.update(now.done - self._bar.n)

    def _write(self, now: Progress) -> None:
        self._told = time.monotonic()
        seconds = max(self._told - self._began, 1e-9)
        total = "" if now.total is None else f" of {now.total:,}"
        rate = (now.done - self._from) / seconds
        print(f"{now.step}: {now.done:,}{total} {now.unit}, {rate:,.0f} a second", file=self._out, flush=True)


@contextmanager
def shown(out: TextIO | None = None, *, every_s: float = LINE_EVERY_S) -> Iterator[OnProgress]:
    """Shows what is told to the OnProgress that it gives, and cleans up behind it."""
    progress = Shown(out, every_s=every_s)
    try:
        yield progress
    finally:
        progress.end()
