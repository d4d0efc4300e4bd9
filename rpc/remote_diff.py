"""Remote diff: the rows that a server says differ, in the models of whoever asks.

constants read the rows of that moment    ─▶ the constants' model
a migration has rewritten them in between ─▶ the model of then, which the schema of the moment has
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.message import Message

from everlog.proto import history_pb2
from everlog.store.admission import read
from everlog.store.binding import Binding
from everlog.store.errors import SchemaError
from everlog.store.past_diff import Difference
from everlog.store.schema import Schema, TableInfo
from everlog.store.snapshot import Snapshot
from everlog.store.table import Table

Side = tuple[TableInfo, type[Message]]


def differences(
    answers: Iterable[history_pb2.DiffResponse], table: Table[Any, Any], moments: tuple[Snapshot, Snapshot]
) -> Iterator[Difference[Any]]:
    """What a server answered, with the moments that it was asked about. Raises SchemaError where the
    constants read neither."""
    sides: list[Side] = []
    for answer in answers:
        for one in answer.differences:
            sides = sides or _sides(table, moments)
            before = read(sides[0][1], one.before) if one.HasField("before") else None
            after = read(sides[1][1], one.after) if one.HasField("after") else None
            info, _ = sides[one.kind != "deleted"]
            yield Difference(one.kind, info.decode_key(one.key), before, after, tuple(one.fields))


def _sides(table: Table[Any, Any], moments: tuple[Snapshot, Snapshot]) -> list[Side]:
    """The table at both; where it is not there, as it is at the other: of that no row comes."""
    errors, bindings = list[SchemaError](), list[Binding | None]()
    for moment in moments:
        try:
            bindings.append(moment._bind(table))
        except SchemaError as error:
            errors.append(error)
            bindings.append(None)
    known = next((one for one in bindings if one is not None), None)
    if known is None:
        raise errors[-1]
    return [
        _side(one or known, moment._schema(), bound=one is not None)
        for one, moment in zip(bindings, moments, strict=True)
    ]


def _side(binding: Binding, then: Schema, *, bound: bool) -> Side:
    if not bound:
        for info in then.tables.values():
            if info.proto.id == binding.info.proto.id:
                return info, info.model
    return binding.info, binding.model
