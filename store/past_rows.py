"""Past rows: the row in a change, as a model, and what differs between two rows.

Two rows of one generation are compared field by field in the model that the log carries, so that
what an older program's model does not know is compared as well. Rows of two generations, between which
a migration rewrote them, are compared by the numbers of their fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

from everlog.proto import log_pb2
from everlog.store.admission import read
from everlog.store.errors import SealedError
from everlog.store.schema import TableInfo


class Image:
    """A row as one version of it was: `raw` None: deleted, or `erased`, or `sealed` under a key that is
    not at hand. Of a row that does not parse it has what can be read."""

    __slots__ = ("_values", "erased", "info", "own", "raw", "row", "sealed")

    def __init__(
        self,
        info: TableInfo,
        model: type[Message],
        raw: bytes | None,
        *,
        erased: bool = False,
        sealed: bool = False,
    ) -> None:
        self.info, self.raw, self.erased, self.sealed = info, raw, erased, sealed
        # As `model`, and as the model that the log carries, to be compared with others of it.
        self.row: Any = None if raw is None else read(model, raw)
        self.own: Any = self.row if model is info.model or raw is None else read(info.model, raw)
        self._values: Sequence[tuple[Any, Any]] | None = None

    @property
    def values(self) -> Sequence[tuple[Any, Any]]:
        """The fields that are set. Listed once, for who compares: each version is, with two others."""
        if self._values is None:
            self._values = () if self.own is None else self.own.ListFields()
        return self._values

    @property
    def is_there(self) -> bool:
        """Whether there is a row, though it may be erased or sealed."""
        return self.raw is not None or self.erased or self.sealed


def image_of(info: TableInfo, model: type[Message], change: log_pb2.Change) -> Image:
    """What a change says. One whose key was forgotten is erased, one whose key is not at hand is sealed;
    a client, who has none, is given it open, or is told that it is erased by a row without a byte."""
    if change.op == log_pb2.DELETE:
        return Image(info, model, None)
    if not change.key_id:
        return Image(info, model, change.row)
    if info.sealing is None:
        return Image(info, model, None, erased=not change.row, sealed=bool(change.row))
    try:
        return Image(info, model, info.sealing.open(change.key, change.key_id, change.row))
    except SealedError as error:
        return Image(info, model, None, erased=error.erased, sealed=not error.erased)


def changed(before: Image | None, after: Image) -> tuple[str, ...]:
    """The names of the fields in which two rows differ; of a new row all that are set, of one that was
    deleted none."""
    if after.raw is None or (before is not None and before.raw == after.raw and before.info is after.info):
        return ()
    if before is None or before.raw is None:
        return tuple(field.name for field, _ in after.values)
    same = before.own.DESCRIPTOR is after.own.DESCRIPTOR
    old, new = before.values, after.values
    if same and [field for field, _ in old] == [field for field, _ in new]:
        return tuple(field.name for (field, was), (_, now) in zip(old, new, strict=True) if was != now)
    first, second = (
        {field.number: value if same else _bytes(value) for field, value in one} for one in (old, new)
    )
    names = {field.number: field.name for field, _ in (*old, *new)}
    numbers = sorted(first.keys() | second.keys())
    return tuple(names[number] for number in numbers if first.get(number) != second.get(number))


def _bytes(value: Any) -> Any:
    if isinstance(value, Message):
        return value.SerializeToString(deterministic=True)
    if isinstance(value, (str, bytes, int, float)):
        return value
    if hasattr(value, "items"):
        return sorted((key, _bytes(one)) for key, one in value.items())
    return [_bytes(one) for one in value]
