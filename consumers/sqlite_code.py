"""Code: a function for each table that reads a row, and one that makes a row, compiled.

    def made(row):                                   def made(values):
     has = row.HasField                               v0, v1, v2, = values
     return (row.faa, convert_1(row.lat),             row = model()
             row.note or (row.note if                 setattr(row, 'faa', v0)
             has('note') else None),)                 …

As a namedtuple's code is: it runs once for each row, and to go from field to field through
functions instead takes twice as long. No value of the source is ever in it; names of fields are
literals made by repr(), or identifiers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message

from everlog.consumers.sqlite_column import Column, timestamp_back


def row_reader(columns: Sequence[Column]) -> Callable[[Any], tuple[Any, ...]]:
    """A function from a row to SQLite's values of it, one for each column.

    In its code `row` is the row, `has` its HasField, and `convert` the column's own function.
    """
    names: dict[str, Any] = {f"convert_{at}": column.convert for at, column in enumerate(columns)}
    values = [column.code.replace("convert(", f"convert_{at}(", 1) for at, column in enumerate(columns)]
    return _compiled(f"def made(row):\n has = row.HasField\n return ({', '.join(values)},)", names)


def row_writer(columns: Sequence[Column], model: type[Message]) -> Callable[[tuple[Any, ...]], Any]:
    """The way back: a function from SQLite's values to a row. It raises ValueError, TypeError or
    struct.error for values that `row_reader` does not give."""
    names: dict[str, Any] = {"model": model}
    values = "".join(f"v{at}, " for at in range(len(columns)))
    lines = ["def made(values):", f" {values} = values", " row = model()"]
    for at, column in enumerate(columns):
        names[f"back_{at}"] = column.json.merge if column.json else column.back
        field, value = repr(column.name), f"v{at}"
        if column.derived:
            continue
        if column.json:
            put = f"back_{at}(row, {value})"
        elif column.back is timestamp_back:
            put = f"back_{at}(getattr(row, {field}), {value})"
        else:
            put = f"setattr(row, {field}, {f'back_{at}({value})' if column.back else value})"
        lines.append(f" {put}" if column.rule else f" if {value} is not None: {put}")
    lines.append(" return row")
    return _compiled("\n".join(lines), names)


def _compiled(source: str, names: dict[str, Any]) -> Callable[[Any], Any]:
    exec(source, names)  # noqa: S102  see the header
    made: Callable[[Any], Any] = names["made"]
    return made
