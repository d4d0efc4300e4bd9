"""Fields: the inputs of a form, made from descriptors: of a request (api.py), and of a row (edit.py).

    row ── flat ─▶ given: texts by the names of inputs ─┬─▶ RowForm.nodes ─▶ the inputs of a page
    form of a page ─▶ given ─ pressed: add, remove … ───┴─▶ RowForm.row ───▶ a row, or errors by place

    f.name          a value as text; of a field with presence (and of no text), empty means unset
    e.name          the text is set even if it is empty
    j.labels        JSON: of lists and messages that are large, and of text with control characters
    m.position      1: the message is set, and has inputs such as f.position.lat; empty: it is unset
    n.legs          the numbers of the items of a list or map: 0,2; their inputs are f.legs.0, f.legs.0.from …
    j.              the whole row as JSON, instead of all others

Invariants
  (1) a field whose text was not changed keeps its value, as the row had it;
  (2) what the form has no inputs for, such as fields that a migration added since, is as in the row;
  (3) each text that does not fit is named at its place, and no row is returned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from everlog.console.web.cells import Descriptor, FieldDescriptor, type_of
from everlog.migrations import values
from everlog.rpc.client.requests import bytes_of
from everlog.store.errors import RowError
from everlog.store.schema.codec import BOOL, BYTES, STRING, TIMESTAMP, kind_of
from everlog.store.schema.descriptors import is_map

INPUTS_MAX, ITEMS_MAX, DEPTH_MAX = 1500, 50, 6  # of a form; above these, parts of the row are JSON
NUMBERS_MAX = 2000
HEX_BYTES = 32  # bytes that are shown in hexadecimal digits
LONG_CHARS, SHOWN = 100, 80
PREFIXES = ("f.", "e.", "j.", "m.", "n.")

_ODD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\r]")  # what inputs do not keep


def box(name: str, type_: str, **more: Any) -> dict[str, Any]:
    """Return an input as templates show it (`input` in macros.html)."""
    found = {
        "id": f"f-{name}",
        "name": name,
        "label": name,
        "type": type_,
        "repeated": False,
        "value": "",
        "hint": "",
        "help": "",
        "error": "",
        "choices": [],
        "unset": True,  # whether a choice may be unset
        "is_long": False,
        "is_required": False,
        "list": "",
        "empty": None,  # whether an empty text is set; None: it is not asked
    }
    return {**found, **more}


def flat(row: Message) -> dict[str, str]:
    """Return the texts of a row, by the names of their inputs; of a very large row its JSON alone."""
    given = dict[str, str]()
    for name, text in _flat(row, "", 0):
        given[name] = text
        if len(given) > INPUTS_MAX:
            return whole(row)
    return given


def whole(row: Message) -> dict[str, str]:
    """Return the text of a row in one input: its JSON."""
    return {"j.": values.dump(values.as_json(row), indent=True)}


def _flat(row: Message, prefix: str, depth: int) -> Iterator[tuple[str, str]]:
    fields: Any = row.DESCRIPTOR.fields
    for field in fields:
        path, value = f"{prefix}{field.name}", getattr(row, field.name)
        if field.is_repeated:
            if depth >= DEPTH_MAX or len(value) > ITEMS_MAX:
                yield f"j.{path}", values.to_text(field)(row)
                continue
            yield f"n.{path}", ",".join(map(str, range(len(value))))
            for number, item in enumerate(_items(field, value)):
                yield from _flat_item(field, item, f"{path}.{number}", depth)
        elif field.has_presence and not row.HasField(field.name):
            yield f"{_kind(field, depth)}.{path}", ""
        elif _kind(field, depth) == "m":
            yield f"m.{path}", "1"
            yield from _flat(value, f"{path}.", depth + 1)
        else:
            yield from _flat_value(field, value, path, depth)
            if field.has_presence and value in ("", b""):
                yield f"e.{path}", "1"


def _flat_item(field: FieldDescriptor, item: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
    if not is_map(field):
        yield from _flat_value(field, item, path, depth)
        return
    for part, value in zip(field.message_type.fields, item, strict=True):
        yield from _flat_value(part, value, f"{path}.{part.name}", depth)


def _flat_value(field: FieldDescriptor, value: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
    kind = _kind(field, depth)
    if kind == "m":
        yield from _flat(value, f"{path}.", depth + 1)
    elif kind == "j":
        yield f"j.{path}", values.dump(values.as_json(value))
    elif isinstance(value, str) and _ODD.search(value):
        yield f"j.{path}", values.dump(value)
    else:
        yield f"f.{path}", text_of(field, value)


def _kind(field: FieldDescriptor, depth: int) -> str:
    """Return the kind of the input of one value: `m` a message with inputs of its own, `j` JSON, `f` text."""
    if field.message_type is None or kind_of(field) is TIMESTAMP:
        return "f"
    return "j" if depth >= DEPTH_MAX or field.message_type.full_name.startswith("google.protobuf.") else "m"


def _items(field: FieldDescriptor, value: Any) -> list[Any]:
    """Return the items of a list, or those of a map in the order of its keys."""
    return sorted(value.items(), key=lambda pair: pair[0]) if is_map(field) else list(value)


def text_of(field: FieldDescriptor, value: Any) -> str:
    """Return one value as the text of its input."""
    if kind_of(field) is BYTES and len(value) <= HEX_BYTES:
        return f"hex:{value.hex()}" if value else ""
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else str(value)
    found = values.one_to_json(field)(value)
    return found if isinstance(found, str) else values.dump(found)


class RowForm:
    """The form of a row. `given`: its texts; `base`: the row that it began with (None: a new one)."""

    def __init__(self, model: Descriptor, given: Mapping[str, str], *, base: Message | None = None) -> None:
        self.given = dict(given)
        self.errors: dict[str, str] = {}  # by place
        self._model, self._base, self._fixed = model, base, frozenset[str]()

    def fix(self, names: Sequence[str]) -> None:
        """Leave fields as they are, without inputs; by their dotted names."""
        self._fixed = frozenset(names)

    def press(self, button: str) -> None:
        """Do what a button says: `add:legs`, `remove:legs.2`, `set:position`, `unset:position`, `json:`,
        `inputs:`. Raises RowError for a button that the form does not have."""
        word, _, path = button.partition(":")
        if word in {"json", "inputs"}:
            row = self.row()
            if not self.errors:
                self.given = whole(row) if word == "json" else flat(row)
            return
        field, depth = self._field(path if word != "remove" else path.rpartition(".")[0])
        match word:
            case "add" if f"n.{path}" in self.given:
                numbers = self._numbers(path)
                number = max([*numbers, self._count(path) - 1], default=-1) + 1
                self.given[f"n.{path}"] = ",".join(map(str, [*numbers, number]))
                self.given |= dict(_flat_item(field, _new_item(field), f"{path}.{number}", depth))
            case "remove":
                of, _, gone = path.rpartition(".")
                left = [str(one) for one in self._numbers(of) if str(one) != gone]
                self.given[f"n.{of}"] = ",".join(left)
            case "set" if f"m.{path}" in self.given:
                self.given[f"m.{path}"] = "1"
                self.given |= dict(_flat(GetMessageClass(field.message_type)(), f"{path}.", depth + 1))
            case "unset":
                self.given[f"m.{path}"] = ""
            case _:
                raise RowError(f"this form has no button {button[:SHOWN]!r}; load the page again")

    def _field(self, path: str) -> tuple[FieldDescriptor, int]:
        """Return the field of a place, and of how many messages it is part."""
        field, model, depth = None, self._model, -1
        for step in path.split("."):
            if step.isdecimal() and field is not None and field.is_repeated:
                continue
            field = model.fields_by_name.get(step) if model is not None else None
            if field is None:
                raise RowError(f"this form has no field {path[:SHOWN]!r}; load the page again")
            model, depth = (
                field.message_type,
                depth + (not (model is not None and model.GetOptions().map_entry)),
            )
        return field, depth

    def _count(self, path: str) -> int:
        """Return how many items a list or map of the first row has: their numbers are taken."""
        found: Any = self._base
        for step in path.split("."):
            if found is None:
                return 0
            try:
                found = list(found)[int(step)] if step.isdecimal() else getattr(found, step)
            except (IndexError, AttributeError, TypeError):
                return 0
        return len(found) if hasattr(found, "__len__") else 0

    def _numbers(self, path: str) -> list[int]:
        words = self.given.get(f"n.{path}", "").split(",")
        found = dict.fromkeys(int(one) for one in words if one.isascii() and one.isdecimal() and len(one) < 7)
        return list(found)[:NUMBERS_MAX]

    # to a row

    def row(self) -> Message:
        """Return the row. `errors` has what does not fit; if there are any, the row is incomplete."""
        made: Message = GetMessageClass(self._model)()
        if self._base is not None:
            made.CopyFrom(self._base)
        if "j." in self.given:
            self._whole(made)
        else:
            self._message(made, "")
        return made

    def _whole(self, made: Message) -> None:
        fields: Any = self._model.fields
        try:
            convert = values.message_from_json(self._model)
            found = convert(values.decoded_json(self.given["j."]))
        except (ValueError, RecursionError) as error:
            self.errors["j."] = f"expected the row as JSON, found {error}"
            return
        for field in fields:
            made.ClearField(field.name)
        made.MergeFrom(found)

    def _message(self, made: Message, prefix: str, depth: int = 0) -> None:
        fields: Any = made.DESCRIPTOR.fields
        chosen = dict[str, str]()
        for field in fields:
            path = f"{prefix}{field.name}"
            if path in self._fixed:
                continue
            try:
                is_set = self._set(made, field, path, depth)
            except (ValueError, TypeError) as error:
                self._unlike(field, path, error)
                continue
            group = field.containing_oneof
            if is_set and group is not None and len(group.fields) > 1:
                if group.name in chosen:
                    self.errors[path] = (
                        f"at most one of {group.name} can be set: expected {chosen[group.name]} or"
                        f" {field.name} to be empty"
                    )
                chosen.setdefault(group.name, field.name)

    def _set(self, made: Any, field: FieldDescriptor, path: str, depth: int) -> bool:
        """Set a field as the form has it; return whether it is set. Raises ValueError."""
        name, given = field.name, self.given
        if f"j.{path}" in given:
            return self._set_json(made, field, given[f"j.{path}"])
        if field.is_repeated:
            if f"n.{path}" in given:
                self._set_items(made, field, path, depth)
        elif _kind(field, depth) == "m":
            if given.get(f"m.{path}") == "":
                made.ClearField(name)
            elif f"m.{path}" in given:
                getattr(made, name).SetInParent()
                self._message(getattr(made, name), f"{path}.", depth + 1)
                return True
        elif f"f.{path}" in given:
            text = given[f"f.{path}"]
            if field.has_presence and not text and f"e.{path}" not in given:
                made.ClearField(name)
                return False
            was_set = not field.has_presence or made.HasField(name)
            if not (was_set and text == text_of(field, getattr(made, name))):
                value = self._convert(field, text)
                if isinstance(value, dict):
                    getattr(made, name).CopyFrom(type(getattr(made, name))(**value))
                else:
                    setattr(made, name, value)
            return True
        return bool(field.has_presence and made.HasField(name))

    def _set_json(self, made: Any, field: FieldDescriptor, text: str) -> bool:
        if not text.strip() and field.has_presence:
            made.ClearField(field.name)
            return False
        decoded = values.decoded_json(text)
        if decoded is None and not values.takes_null(field):
            made.ClearField(field.name)
            return False
        found = type(made)(**{field.name: values.from_json(field)(decoded)})
        made.ClearField(field.name)
        made.MergeFrom(found)
        return True

    def _set_items(self, made: Any, field: FieldDescriptor, path: str, depth: int) -> None:
        before = [_copy(one) for one in _items(field, getattr(made, field.name))]
        made.ClearField(field.name)
        target = getattr(made, field.name)
        for number in self._numbers(path):
            at, old = f"{path}.{number}", before[number] if number < len(before) else None
            try:
                if is_map(field):
                    self._set_entry(target, field, at, old, depth)
                elif _kind(field, depth) == "m":
                    item = target.add()
                    if old is not None:
                        item.CopyFrom(old)
                    self._message(item, f"{at}.", depth + 1)
                else:
                    value = self._one(field, at, old)
                    target.add(**value) if isinstance(value, dict) else target.append(value)
            except (ValueError, TypeError) as error:
                self._unlike(field, at, error)

    def _set_entry(self, target: Any, field: FieldDescriptor, path: str, old: Any, depth: int) -> None:
        key, value = field.message_type.fields
        was: Any = old or (None, None)
        try:
            name = self._one(key, f"{path}.key", was[0])
            if name in target:
                raise ValueError("this key occurs twice")
        except (ValueError, TypeError) as error:
            self._unlike(key, f"{path}.key", error)
            return
        if _kind(value, depth) == "m":
            if was[1] is not None:
                target[name].CopyFrom(was[1])
            self._message(target[name], f"{path}.value.", depth + 1)
            return
        try:
            found = self._one(value, f"{path}.value", was[1])
            if value.message_type is None:
                target[name] = found
            else:
                made = GetMessageClass(value.message_type)
                target[name].CopyFrom(made(**found) if isinstance(found, dict) else found)
        except (ValueError, TypeError) as error:
            self._unlike(value, f"{path}.value", error)

    def _one(self, field: FieldDescriptor, path: str, old: Any) -> Any:
        """Return one value of a list or map, which has no field of its own. Raises ValueError."""
        if (text := self.given.get(f"j.{path}")) is not None:
            return values.one_from_json(field)(values.decoded_json(text))
        text = self.given.get(f"f.{path}", "")
        if old is not None and field.message_type is None and text == text_of(field, old):
            return old
        return self._convert(field, text)

    def _convert(self, field: FieldDescriptor, text: str) -> Any:
        if kind_of(field) is BYTES:
            return bytes_of(text)
        if not text and kind_of(field) is not STRING:
            raise ValueError("nothing")
        return values.one_from_text(field)(text)

    def _unlike(self, field: FieldDescriptor, path: str, error: Exception) -> None:
        text = self.given.get(f"f.{path}", self.given.get(f"j.{path}", ""))
        found = repr(text[:SHOWN]) if text else "nothing"
        why = "" if str(error) == "nothing" else f" ({error})"
        self.errors.setdefault(path, f"expected {wanted(field)}, found {found}{why}")

    # to inputs

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The inputs, those of messages and lists within them; see `node` in edit.html."""
        if "j." in self.given:
            text = box("j.", "JSON", label="Row", value=self.given["j."], is_long=True)
            return [{"kind": "value", "box": {**text, "error": self.errors.get("j.", "")}}]
        return self._nodes(self._model, "", 0)

    def _nodes(self, model: Descriptor, prefix: str, depth: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for field in model.fields:
            path, group = f"{prefix}{field.name}", field.containing_oneof
            if path in self._fixed:
                continue
            node = self._node(field, path, depth)
            if node is None:
                continue
            if group is None or len(group.fields) == 1:
                found.append(node)
            elif found and found[-1].get("oneof") == group.name:
                found[-1]["nodes"].append(node)
            else:
                found.append({"kind": "oneof", "oneof": group.name, "label": group.name, "nodes": [node]})
        return found

    def _node(self, field: FieldDescriptor, path: str, depth: int) -> dict[str, Any] | None:
        shared = {"label": field.name, "path": path, "type": type_of(field)}
        error = self.errors.get(path, "")
        if field.is_repeated and f"n.{path}" in self.given:
            items = [
                {"number": number, "nodes": self._item(field, f"{path}.{number}", depth)}
                for number in self._numbers(path)
            ]
            numbers = self.given[f"n.{path}"]
            return {"kind": "list", **shared, "items": items, "numbers": numbers, "error": error}
        if _kind(field, depth) == "m" and not field.is_repeated and f"m.{path}" in self.given:
            is_set = bool(self.given[f"m.{path}"])
            inner = self._nodes(field.message_type, f"{path}.", depth + 1) if is_set else []
            return {"kind": "message", **shared, "is_set": is_set, "nodes": inner, "error": error}
        return self._value(field, path, field.name)

    def _item(self, field: FieldDescriptor, path: str, depth: int) -> list[dict[str, Any]]:
        parts = (
            [(one, f"{path}.{one.name}", one.name) for one in field.message_type.fields]
            if is_map(field)
            else [(field, path, "")]
        )
        found: list[dict[str, Any]] = []
        for part, at, label in parts:
            if _kind(part, depth) == "m":
                found += self._nodes(part.message_type, f"{at}.", depth + 1)
            elif (node := self._value(part, at, label, item=True)) is not None:
                found.append(node)
        return found

    def _value(
        self, field: FieldDescriptor, path: str, label: str, *, item: bool = False
    ) -> dict[str, Any] | None:
        """Return the input of one value; None: the form has none."""
        name = next((f"{one}.{path}" for one in "jf" if f"{one}.{path}" in self.given), "")
        if not name:
            return None
        text, kind = self.given[name], kind_of(field)
        optional, is_json = field.has_presence and not item, name.startswith("j.")
        is_text = kind in {STRING, BYTES} and not is_json
        choices = [] if is_json else _choices(field, text)
        type_ = type_of(field) if not item else type_of(field).removeprefix("repeated ")
        made = box(
            name,
            f"{type_}, as JSON" if is_json else type_,
            label=label or "value",
            value=text,
            choices=choices,
            unset=optional,
            is_long=(is_json and bool(text)) or (not choices and (len(text) > LONG_CHARS or "\n" in text)),
            hint=" or ".join(filter(None, ("unset" if optional else "", _hint(field)))),
            error=self.errors.get(path, ""),
            empty=(f"e.{path}" in self.given) if optional and is_text else None,
        )
        return {"kind": "value", "box": made}


def wanted(field: FieldDescriptor) -> str:
    """Return what an input takes, for messages."""
    if field.enum_type is not None:
        return f"one of {', '.join(one.name for one in field.enum_type.values)}"[:400]
    if kind_of(field) is BYTES:
        return "base64, or hex: and hexadecimal digits"
    return values.expected(field)


def _choices(field: FieldDescriptor, text: str) -> list[str]:
    if kind_of(field) is BOOL:
        names = ["false", "true"]
    elif field.enum_type is not None:
        names = list(dict.fromkeys(one.name for one in field.enum_type.values))
    else:
        return []
    return [*names, text] if text and text not in names else names


def _hint(field: FieldDescriptor) -> str:
    """Return an example of a value, shown in an empty input."""
    kind = kind_of(field)
    if kind is TIMESTAMP:
        return "2026-01-05T09:30:00Z"
    return "hex:00ff or base64" if kind is BYTES else ""


def _new_item(field: FieldDescriptor) -> Any:
    """Return a new item of a list, or a new entry of a map."""
    if is_map(field):
        return tuple(_default(part) for part in field.message_type.fields)
    return _default(field)


def _default(field: FieldDescriptor) -> Any:
    if field.message_type is not None:
        return GetMessageClass(field.message_type)()
    if field.enum_type is not None:
        return field.enum_type.values[0].number
    return {BOOL: False, STRING: "", BYTES: b""}.get(kind_of(field), 0)


def _copy(item: Any) -> Any:
    """Return an item that remains when its list is cleared."""
    if isinstance(item, tuple):
        return tuple(_copy(one) for one in item)
    if not isinstance(item, Message):
        return item
    found = type(item)()
    found.CopyFrom(item)
    return found
