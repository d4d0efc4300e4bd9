"""Cells: rows as the pages show them: cells of a table, all fields with nested messages unfolded, diffs,
models.

    unset   a field with presence that has no value, an empty list or map; 0 and "" are values
    cell    one line, cut at CELL_CHARS; the page of the row has the whole value, cut at VALUE_CHARS

Invariants
  (1) the size of a page does not depend on the size of a row: long values and large messages are cut, with a
      mark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from google.protobuf.message import Message

from everlog.migrations.values import to_text
from everlog.store.errors import quantity
from everlog.store.schema.codec import BYTES, ENUM, MESSAGE, STRING, TIMESTAMP, kind_of
from everlog.store.schema.descriptors import is_map

CELL_CHARS, VALUE_CHARS = 80, 20_000
LINES_MAX, ITEMS_MAX, DEPTH_MAX = 2000, 100, 12
CHARS_MAX = 1 << 20  # of the values on a page
CHANGES_MAX = 100  # fields of one change
MODEL_LINES_MAX = 4000

# Descriptors: their stubs differ between protobuf's two implementations.
Descriptor: TypeAlias = Any
FieldDescriptor: TypeAlias = Any
Path = tuple[FieldDescriptor, ...]


class Cell(NamedTuple):
    """A value: its text, its look (num, mono, null or empty), and whether it was cut."""

    text: str
    look: str
    cut: bool = False


class Budget:
    """What a page can still show: fields, and characters of their values."""

    def __init__(self, fields: int = LINES_MAX, chars: int = CHARS_MAX) -> None:
        self.fields, self.chars = fields, chars

    def take(self, *shown: Cell | None) -> bool:
        """Return whether a field with these cells is shown; if so, it is used up."""
        size = sum(len(one.text) for one in shown if one is not None)
        if self.fields <= 0 or size > self.chars:
            self.fields = 0
            return False
        self.fields, self.chars = self.fields - 1, self.chars - size
        return True


class Line(NamedTuple):
    """A field of an unfolded row. `depth`: of how many messages it is part. Of a message the text is empty,
    and its fields follow."""

    name: str
    depth: int
    type: str
    cell: Cell


UNSET, EMPTY = Cell("unset", "null"), Cell('""', "mono")


def type_of(field: FieldDescriptor) -> str:
    """Return the type of a field in a word or two: int32?, repeated string, Size."""
    if is_map(field):
        key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
        return f"map<{_plain_type(key)}, {_plain_type(value)}>"
    if field.is_repeated:
        return f"repeated {_plain_type(field)}"
    optional = field.has_presence and field.message_type is None and field.containing_oneof is not None
    return f"{_plain_type(field)}{'?' if optional else ''}"


def _plain_type(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return str(field.message_type.name)
    if field.enum_type is not None:
        return str(field.enum_type.name)
    return kind_of(field).name


def is_number(field: FieldDescriptor) -> bool:
    """Return whether values of a field stand at the right of their column."""
    return not field.is_repeated and kind_of(field) not in {STRING, BYTES, MESSAGE, TIMESTAMP, ENUM}


def cell(row: Message, path: Path, *, chars: int = CELL_CHARS) -> Cell:
    """Return a field of a row as a cell."""
    found: Any = row
    for step in path:
        if step.is_repeated:
            return _cell(step, found, chars) if len(getattr(found, step.name)) else UNSET
        if step.has_presence and not found.HasField(step.name):
            return UNSET
        if step is not path[-1]:
            found = getattr(found, step.name)
    return _cell(path[-1], found, chars)


def _cell(field: FieldDescriptor, message: Any, chars: int) -> Cell:
    kind, value = kind_of(field), getattr(message, field.name)
    if field.is_repeated:
        text = f"{len(value):,} {'entries' if is_map(field) else 'items'}" if chars == CELL_CHARS else ""
        if not text or len(value) <= 3:
            text = to_text(field)(message)
        return _cut(text, "mono", chars)
    if kind is BYTES:
        return (
            _cut(value[:chars].hex() if value else "", "mono", chars)
            if len(value) <= chars // 2
            else Cell(f"{value[: chars // 2].hex()}… {len(value):,} bytes", "mono", cut=True)
        )
    if kind is STRING:
        return _cut(value, "", chars) if value else EMPTY
    text = to_text(field)(message)
    if kind in {MESSAGE, TIMESTAMP, ENUM}:
        return _cut(text, "mono" if kind is MESSAGE else "", chars)
    return Cell(text, "num" if is_number(field) else "")


def _cut(text: str, look: str, chars: int) -> Cell:
    return Cell(text, look) if len(text) <= chars else Cell(f"{text[: chars - 1]}…", look, cut=True)


def columns(keys: Sequence[Path], fields: Sequence[FieldDescriptor], most: int) -> tuple[list[Path], int]:
    """Return the fields to show as columns, those of the key first, and the number of others that have no
    room. `fields`: those to show."""
    found = list(keys)
    firsts = {path[0].number for path in keys if len(path) == 1}
    found += [(field,) for field in fields if field.number not in firsts]
    return found[:most], max(0, len(found) - most)


def unfold(row: Message) -> list[Line]:
    """Return all fields of a row, with those of nested messages after them."""
    found: list[Line] = []
    budget = Budget()
    for line in _lines(row, "", 0):
        if not budget.take(line.cell):
            words = "the row has more; its JSON has all: add .json to the address of its page"
            found.append(Line("…", 0, "", Cell(words, "null")))
            break
        found.append(line)
    return found


def _lines(row: Message, before: str, depth: int) -> Iterator[Line]:
    fields: Any = row.DESCRIPTOR.fields
    for field in fields:
        name, type_ = f"{before}{field.name}", type_of(field)
        value = getattr(row, field.name)
        nested = kind_of(field) is MESSAGE and not field.message_type.full_name.startswith("google.protobuf.")
        if field.is_repeated:
            if not len(value):
                yield Line(name, depth, type_, UNSET)
            elif nested and not is_map(field) and depth < DEPTH_MAX:
                yield Line(name, depth, type_, Cell(f"{len(value):,} items", "null"))
                for number, one in enumerate(value[:ITEMS_MAX]):
                    yield Line(f"{field.name}[{number}]", depth + 1, "", Cell("", ""))
                    yield from _lines(one, "", depth + 2)
            else:
                yield Line(name, depth, type_, _cell(field, row, VALUE_CHARS))
        elif field.has_presence and not row.HasField(field.name):
            yield Line(name, depth, type_, UNSET)
        elif nested and depth < DEPTH_MAX:
            yield Line(name, depth, type_, Cell("", ""))
            yield from _lines(value, "", depth + 1)
        else:
            yield Line(name, depth, type_, _cell(field, row, VALUE_CHARS))


class Changed(NamedTuple):
    """A field in two versions of a row; None: the row did not exist."""

    name: str
    before: Cell | None
    after: Cell | None


def changes(
    before: Message | None,
    after: Message | None,
    names: Sequence[str] = (),
    budget: Budget | None = None,
) -> list[Changed]:
    """Return the fields that differ between two versions, which may have different models; with `names`,
    these fields. Of a new row, or one that was deleted, the fields that are set. Where a row or the budget of
    the page has no room, the last one says how many are left out."""
    wanted = list(names) or _differing(before, after)
    found, budget = list[Changed](), budget or Budget()
    for number, name in enumerate(wanted):
        was, now = _named(before, name), _named(after, name)
        if (was, now) == (UNSET, UNSET) and before is not None and after is not None:
            continue
        if len(found) == CHANGES_MAX or not budget.take(was, now):
            left = quantity(len(wanted) - number, "more field")
            found.append(Changed("…", None, Cell(f"{left}, not shown here", "null")))
            break
        found.append(Changed(name, was, now))
    return found


def _named(row: Message | None, name: str) -> Cell | None:
    if row is None:
        return None
    field = row.DESCRIPTOR.fields_by_name.get(name)
    return UNSET if field is None else cell(row, (field,), chars=400)


def _differing(before: Message | None, after: Message | None) -> list[str]:
    if before is None or after is None:
        return [field.name for field, _ in (after or before).ListFields()] if (after or before) else []  # type: ignore[union-attr]
    names = dict.fromkeys(field.name for row in (after, before) for field in row.DESCRIPTOR.fields)
    return [name for name in names if _value(before, name) != _value(after, name)]


def _value(row: Message, name: str) -> Any:
    field: Any = row.DESCRIPTOR.fields_by_name.get(name)
    if field is None or (field.has_presence and not field.is_repeated and not row.HasField(name)):
        return None
    value = getattr(row, name)
    return to_text(field)(row) if field.is_repeated or field.message_type is not None else value


def model_text(model: Descriptor) -> str:
    """Return a model in the language of protobuf, without its comments, which the log does not have; of a
    very large one the first lines."""
    found: list[str] = []
    _write_message(model, "", found)
    if (left := len(found) - MODEL_LINES_MAX) > 0:
        found[MODEL_LINES_MAX:] = [f"// {left:,} more lines; the folder of its migration has all"]
    return "\n".join(found)


def _write_message(model: Descriptor, indent: str, found: list[str]) -> None:
    found.append(f"{indent}message {model.name} {{")
    for enum in model.enum_types:
        found.append(f"{indent}  enum {enum.name} {{")
        found.extend(f"{indent}    {value.name} = {value.number};" for value in enum.values)
        found.append(f"{indent}  }}")
    for nested in model.nested_types:
        if not nested.GetOptions().map_entry:
            _write_message(nested, f"{indent}  ", found)
    for field in model.fields:
        word = type_of(field).removesuffix("?")
        if field.message_type is not None and not is_map(field) and field.message_type.file != model.file:
            word = word.replace(field.message_type.name, field.message_type.full_name)
        oneof = field.containing_oneof
        label = (
            "optional "
            if oneof is not None and type_of(field).endswith("?") and len(oneof.fields) == 1
            else ""
        )
        found.append(f"{indent}  {label}{word} {field.name} = {field.number};")
    found.append(f"{indent}}}")
