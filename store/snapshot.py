"""Snapshot: a database at one moment, for reading more than once."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Self

from everlog.store.errors import ClosedError
from everlog.store.reader import Reader
from everlog.store.schema import Schema
from everlog.store.source import Source


class Snapshot(Reader):
    """A database at one moment. Use it in a `with`: as long as it is open, that moment is kept."""

    def __init__(self, source: Source, seq: int, schema: Schema, close: Callable[[], None]) -> None:
        self.seq = seq
        self._held: Source | None = source
        self._of = schema
        self._on_close = close
        self._pid = os.getpid()

    def _schema(self) -> Schema:
        return self._of

    def _source(self) -> Source:
        if self._held is None:
            raise ClosedError("this snapshot is closed")
        if self._pid != os.getpid():  # its files are not open here
            raise ClosedError(
                "the database of this snapshot was opened before this process was forked; open it in the"
                " child"
            )
        return self._held

    def close(self) -> None:
        self._held = None
        self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
