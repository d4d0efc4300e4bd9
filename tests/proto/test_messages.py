"""Golden bytes of every message of the contract, in the log, on disk and on the wire."""

from __future__ import annotations

from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet

from tests.proto.messages import ENUMS, enums, examples, golden, messages, put

MESSAGES, GOLDEN = messages(), list(golden())
FIX = "to add it: python -m tests.proto.messages >> tests/proto/messages.hex"


def test_bytes_of_then_are_read_whole_and_written_again() -> None:
    for name, raw in GOLDEN:
        assert name in MESSAGES, f"{name} is gone: old bytes of it would not be read"
        found = GetMessageClass(MESSAGES[name])()
        found.ParseFromString(raw)
        assert not UnknownFieldSet(found), f"{name} has lost a field: keep its number and type"
        assert found.SerializeToString(deterministic=True) == raw, f"{name} is written differently"
        for field, value in found.ListFields():
            expected = GetMessageClass(MESSAGES[name])()
            put(expected, field)
            same = getattr(expected, field.name) == value
            assert same, f"{name}.{field.name} has another meaning: take a new number"


def test_every_field_of_every_message_has_golden_bytes() -> None:
    known: dict[str, set[str]] = {}
    for name, raw in GOLDEN:
        found = GetMessageClass(MESSAGES[name])()
        found.ParseFromString(raw)
        known.setdefault(name, set()).update(field.name for field, _ in found.ListFields())
    for name, descriptor in MESSAGES.items():
        assert name in known, f"{name} has no golden bytes; {FIX}"
        lacks = {field.name for field in descriptor.fields} - known[name]
        assert not lacks, f"{name} has no golden bytes of {lacks}; {FIX}"
        for made in examples(descriptor):
            assert made.IsInitialized()


def test_numbers_of_enums_are_for_ever() -> None:
    then = ENUMS.read_text(encoding="ascii").splitlines()
    now = [f"{name}.{one.name} {one.number}" for name, enum in enums().items() for one in enum.values]
    assert not set(then) - set(now), "a value has another number, or is gone"
    assert not set(now) - set(then), f"add these lines to {ENUMS.name}"
