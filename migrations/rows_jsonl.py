"""Rows of a JSON Lines file: one object a line, as protobuf's JSON mapping writes messages.

Keys are the fields' names, in the model's spelling or in lowerCamelCase.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, NoReturn, TypeVar

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from everlog.migrations.misfit import fail, misfit, unknown
from everlog.migrations.values import Convert, from_json

M = TypeVar("M", bound=Message)
_Fields = dict[str, tuple[FieldDescriptor, Convert]]


def read_jsonl(file: IO[bytes], model: type[M]) -> Iterator[M]:
    """The rows of an open file. Raises LoadError naming it, the line and the column."""
    name = getattr(file, "name", None) or "<rows>"
    fields: _Fields = {}
    for field in model.DESCRIPTOR.fields:
        fields[field.name] = fields[field.json_name] = (field, from_json(field, model))
    decoder = msgspec.json.Decoder(dict[str, Any])
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            found = decoder.decode(line)
            words = {}
            for key, value in found.items():
                field, convert = fields[key]
                if value is not None:
                    words[field.name] = convert(value)
            row = model(**words)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            fail(name, number, f"expected a JSON object: {error}")
        except (KeyError, ValueError, TypeError) as error:
            _explain(fields, model, found, name, number, error)
        yield row


def _explain(
    fields: _Fields, model: type[Message], found: dict[str, Any], file: str, line: int, error: Exception
) -> NoReturn:
    """Raises LoadError for the first value that does not fit by itself."""
    for key, value in found.items():
        if key not in fields:
            unknown(file, line, key, "key", model.DESCRIPTOR)
        field, convert = fields[key]
        if value is None:
            continue
        try:
            model(**{field.name: convert(value)})
        except (ValueError, TypeError) as misfitting:
            misfit(file, line, f"key {key!r}", key, field, value, misfitting)
    fail(file, line, str(error))
