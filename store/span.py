"""Span: a range of encoded keys or index values, from what a caller says of it.

scan(T)                             everything
scan(T, "JFK")  scan(T, ("US", 1))  where the first fields are these
scan(T, start=…, end=…)             from start on, up to but without end; either may be partial
scan(T, starts_with="New")          where the text begins so; with `equals` the field after it
"""

from __future__ import annotations

from typing import Any, NamedTuple

from everlog.store import codec, given
from everlog.store.errors import RowError
from everlog.store.index_info import IndexInfo
from everlog.store.kinds import BYTES, STRING, kind_of
from everlog.store.schema import TableInfo


class Span(NamedTuple):
    """From `start` on, up to but without `end`; `end` empty: to the last. Without prefix."""

    start: bytes = b""
    end: bytes = b""

    def under(self, prefix: bytes) -> tuple[bytes, bytes]:
        """The same range of whole keys, all of which start with `prefix`."""
        return prefix + self.start, prefix + self.end if self.end else codec.after(prefix)

    def holds(self, order: bytes) -> bool:
        return order >= self.start and (not self.end or order < self.end)

    def after(self, order: bytes, *, reverse: bool) -> Span:
        """What is left of it once a scan has come past `order`."""
        if reverse:
            return Span(self.start, min(order, self.end) if self.end else order)
        return Span(max(self.start, order + b"\x00"), self.end)


def span(
    info: TableInfo,
    index: IndexInfo | None,
    equals: Any = None,
    *,
    start: Any = None,
    end: Any = None,
    starts_with: str | bytes | None = None,
) -> Span:
    """The span that the arguments of a scan mean. Raises RowError."""
    if (equals is not None or starts_with is not None) and (start is not None or end is not None):
        raise RowError("a scan takes either the first fields (and starts_with), or start and end; found both")

    if index is not None and index.hashed and (equals is None or starts_with is not None):
        raise RowError(
            f"index {info.name}.{index.name} is over sealed fields: it holds hashes, which find what is equal"
            " and have no order; give the value of its first field, or scan the table",
            table=info.name,
            index=index.name,
        )

    def encode(value: Any) -> bytes:
        return info.encode_key(value, partial=True) if index is None else index.encode(value)

    head = b"" if equals is None else encode(equals)
    if starts_with is not None:
        head += _text_prefix(info, index, equals, starts_with)
    if head:
        return Span(head, codec.after(head))
    return Span(b"" if start is None else encode(start), b"" if end is None else encode(end))


def _text_prefix(info: TableInfo, index: IndexInfo | None, equals: Any, text: str | bytes) -> bytes:
    fields = info.key_fields if index is None else index.fields
    at = 0 if equals is None else len(equals) if isinstance(equals, tuple) else 1
    kind = kind_of(fields[at][-1]) if at < len(fields) else None
    if kind not in (STRING, BYTES) or not isinstance(text, kind.types):
        raise RowError(
            f"starts_with={text!r} needs a field of that type at position {at} of"
            f" {info.name if index is None else f'{info.name}.{index.name}'}"
        )
    raw = given.text(text, "starts_with").encode() if isinstance(text, str) else text
    return (b"" if index is None else b"\x01") + codec.encode_bytes(raw)[:-2]
