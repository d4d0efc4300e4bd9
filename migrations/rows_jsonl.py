"""Rows of a JSON Lines file: one object a line, as protobuf's JSON mapping writes messages.

Keys are the fields' names, in the model's spelling or in lowerCamelCase.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import IO, Any, NoReturn, TypeVar

import msgspec
from google.protobuf.message import DecodeError, Message

from everlog.migrations.misfit import Place, check_rivals, fail, misfit, rivals, unknown
from everlog.migrations.values import Convert, from_json, takes_null
from everlog.store.user_code import private

M = TypeVar("M", bound=Message)
# Fields, the converters of their values, and whether null is one of these.
_Fields = dict[str, tuple[Any, Convert, bool]]


def read_jsonl(file: IO[bytes], model: type[M]) -> Iterator[M]:
    """The rows of an open file. Raises LoadError naming it, the line and the column."""
    name = getattr(file, "name", None) or "<rows>"
    fields: _Fields = {}
    field: Any
    for field in model.DESCRIPTOR.fields:
        null = takes_null(field) and not field.is_repeated
        fields[field.name] = fields[field.json_name] = (field, from_json(field), null)
    groups = rivals(field for field, _, _ in fields.values())
    decoder = msgspec.json.Decoder(dict[str, Any])
    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901
        if not line.strip():
            continue
        found: dict[str, Any] = {}
        try:
            found = decoder.decode(line)
            words = {}
            for key, value in found.items():
                field, convert, null = fields[key]
                if value is not None or null:
                    words[field.name] = convert(value)
            if groups:
                check_rivals(groups, words, Place(name, number), "key")
            row = model(**words)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            fail(Place(name, number), f"expected a JSON object: {error}")
        except (KeyError, ValueError, TypeError, DecodeError) as error:
            _explain(fields, model, found, Place(name, number), error)
        yield row


def _explain(
    fields: _Fields, model: type[Message], found: dict[str, Any], line: Place, error: Exception
) -> NoReturn:
    """Raises LoadError for the first value that does not fit by itself."""
    for number, (key, value) in enumerate(found.items(), 1):
        if key not in fields:
            unknown(line._replace(shown=f"key {number}", column=key), model)
        at = line._replace(shown=f"key {key!r}", column=key)
        field, convert, null = fields[key]
        if value is None and not null:
            continue
        try:
            model(**{field.name: convert(value)})
        except (ValueError, TypeError, DecodeError) as misfitting:
            misfit(at, field, value, misfitting)
    fail(line, "the values do not fit together", private=private(error))
