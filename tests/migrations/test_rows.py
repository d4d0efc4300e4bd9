import io
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.type_pb2 import Field as Typed
from hypothesis import given
from hypothesis import strategies as st

from everlog import LoadError
from everlog.migrations.rows import read, read_csv, read_jsonl
from everlog.proto import log_pb2, migrations_pb2
from tests.migrations.project import Project
from tests.store.documents import Document

INFO = migrations_pb2.MigrationInfo


def csv(text: str, model: Any = INFO, **options: Any) -> list[Any]:
    return list(read_csv(io.BytesIO(text.encode()), model, **options))


def jsonl(text: str, model: Any = INFO) -> list[Any]:
    return list(read_jsonl(io.BytesIO(text.encode()), model))


def test_a_csv_file_becomes_rows_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "infos.csv"
    path.write_text('name,version,state,digest\n"a, b\nc",17,APPLIED,AAE=\n\nd,,2,\n')
    assert list(read(path, INFO)) == [
        INFO(name="a, b\nc", version=17, state=migrations_pb2.APPLIED, digest=b"\0\1"),
        INFO(name="d", state=migrations_pb2.APPLIED),
    ]


def test_columns_may_lead_into_messages_and_cells_may_be_json() -> None:
    text = 'migration.version,migration.schema.version,changes\n1,2,"[{""space"": 3}]"\n'
    (commit,) = csv(text, log_pb2.Commit)
    migration = log_pb2.Migration(version=1, schema=log_pb2.Schema(version=2))
    assert commit == log_pb2.Commit(migration=migration, changes=[log_pb2.Change(space=3)])


def test_cells_that_equal_null_are_left_unset_and_columns_can_be_skipped() -> None:
    assert csv("name,version,more\nNA,NA,x\n", null="NA", skip=("more",)) == [INFO()]


@pytest.mark.parametrize(
    ("text", "line", "column", "said"),
    [
        (
            "name,version\na,1\nb,x\n",
            3,
            "version",
            "column 2 (version): expected a uint64, found text of length 1",
        ),
        ("name,version\na,-1\n", 2, "version", "expected a uint64, found text of length 2"),
        ("name,version\na,18446744073709551616\n", 2, "version", "expected a uint64"),
        ('name,version\n"a\nb",1\nc,d\n', 4, "version", "expected a uint64, found text of length 1"),
        ("name,state\na,GONE\n", 2, "state", "MigrationState has MIGRATION_STATE_UNSPECIFIED, PENDING"),
        ("name,digest\na,?\n", 2, "digest", "expected a bytes, found text of length 1"),
        (
            "name,colour\n",
            1,
            None,
            "column 2: everlog.v1.MigrationInfo has no such field; it has: version, name",
        ),
        ("name,name\n", 1, None, "column 2: occurs twice in the header"),
        ("name,version\na\n", 2, None, "expected 2 cells, as in the header, found 1"),
        ("", 1, None, "expected a header"),
        ('name\n"a', 2, None, "not CSV"),
    ],
)
def test_a_csv_row_that_does_not_fit_is_said_with_file_line_and_column(
    tmp_path: Path, text: str, line: int, column: str | None, said: str
) -> None:
    path = tmp_path / "infos.csv"
    path.write_text(text)
    with pytest.raises(LoadError) as caught:
        list(read(path, INFO))
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert (caught.value.file, caught.value.line, caught.value.column) == (str(path), line, column)


def test_a_byte_that_is_not_utf8_is_said_with_its_line() -> None:
    with pytest.raises(LoadError, match=r"<rows>:3: not UTF-8: .* at byte 2"):
        list(read_csv(io.BytesIO(b"name\na\nb\xff\n"), INFO))


@pytest.mark.parametrize(
    ("text", "line", "column", "said"),
    [
        ('{"name": "a"}\n{"name": 1}\n', 2, "name", "key 'name': expected a string, found int"),
        ('{"version": 1.5}', 1, "version", "expected a uint64, found float"),
        ('{"version": true}', 1, "version", "expected a uint64, found bool"),
        ('{"colour": 1}', 1, None, "key 1: everlog.v1.MigrationInfo has no such field"),
        ("\n[1]", 2, None, "expected a JSON object"),
        ('{"name": ', 1, None, "expected a JSON object"),
        ('{"name": "a"}\n{"name": "b", "version": 1, "name" : "c"}', 2, "name", "key 'name': occurs twice"),
        ('{"applied_ns": 1, "appliedNs": 1}', 1, "appliedNs", "key 'appliedNs': sets the field applied_ns"),
        ('{"name": null, "name": null}', 1, "name", "key 'name': occurs twice"),
    ],
)
def test_a_json_row_that_does_not_fit_is_said_with_line_and_key(
    text: str, line: int, column: str | None, said: str
) -> None:
    with pytest.raises(LoadError) as caught:
        jsonl(text)
    assert said in str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column)


def test_a_repeated_key_of_an_inner_object_is_refused_in_every_format() -> None:
    twice = '[{"space": 3, "key": "", "space": 4}]'
    with pytest.raises(LoadError, match=r"<rows>:1: key 'changes': a key in it occurs twice") as caught:
        list(read_jsonl(io.BytesIO(f'{{"changes": {twice}}}'.encode()), log_pb2.Commit))
    assert caught.value.private == "space"
    with pytest.raises(LoadError, match=r"<rows>:2: column 1 \(changes\)") as caught:
        csv(f'changes\n"{twice.replace(chr(34), chr(34) * 2)}"\n', log_pb2.Commit)
    assert "the key occurs twice" in caught.value.private


def test_text_that_looks_like_a_key_is_not_one() -> None:
    assert jsonl('{"name": "a\\": b, \\"name\\":", "version": 12345678901234567890}') == [
        INFO(name='a": b, "name":', version=12345678901234567890)
    ]


@pytest.mark.parametrize("name", ["rows.txt", "rows"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LoadError, match=r"expected a file name that ends in \.csv, \.jsonl"):
        next(read(tmp_path / name, INFO))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="No such file"):
        next(read(tmp_path / "rows.csv", INFO))


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        (
            "i64",
            [
                "1_000",
                "\uff11\uff12",
                " 1",
                "1 ",
                "+1",
                "0x10",
                "1.0",
                "1e3",
                "nan",
                "NaN",
                "",
                "-",
                "\u0663",
                "1,0",
                "true",
            ],
        ),
        ("u32", ["-1", "4294967296", "1_0"]),
        ("i32", ["2147483648", "-2147483649"]),
        (
            "ratio",
            [
                "1e39",
                "-1e39",
                "3.4028236e38",
                "1e999",
                "nan",
                "NAN",
                "1_0.5",
                "+1.5",
                " 1.5",
                "0x1p3",
                "\uff11",
                "1,5",
                "infinity",
            ],
        ),
        ("weight", ["1e309", "nan", "1_0", "+1", "1.5 ", ".", "e5", "--1"]),
        ("flag", ["True", "yes", "TRUE", " true", "t", "2", "on", ""]),
        ("color", ["red", " RED", "+1", "1.0", "1_0", "NONE"]),
        ("raw", ["?", "AA=", " AAE="]),
        (
            "at",
            [
                "2013-02-30T00:00:00Z",
                "2013-13-01T00:00:00Z",
                "0000-01-01T00:00:00Z",
                "10000-01-01T00:00:00Z",
                "2013-01-01T24:00:00Z",
                "2013-01-01T10:00:60Z",
                "9999-12-31T23:59:59-01:00",
                "2013-01-01",
                "0001-01-01T00:00:00+01:00",
                "2013-01-01T10:00:00.1234567891Z",
                " 2013-01-01T10:00:00Z",
                "20130101T100000Z",
                "2013-W01-1T00:00:00Z",
                "2013-01-01T10:00:00+25:00",
                "1357034400",
                "\uff12013-01-01T10:00:00Z",
            ],
        ),
        ("took", ['"1"', '"1_0s"', '"1.0000000001s"', '"315576000001s"', '" 1s"', '"+1s"', "1"]),
        (
            "inner",
            [
                "{",
                "[]",
                '{"number": 1.5}',
                '{"numbr": 1}',
                '{"color": "PINK"}',
                '{"number": 1, "number": true}',
            ],
        ),
        ("numbers", ["1", "[null]", "[1.5]", '["1_0"]', "[true]"]),
        ("ratios", ["[1e39]", '["nan"]']),
        ("by_number", ['{"1_0": {}}', '{"a": {}}', '{"1": null}', "[]"]),
    ],
)
def test_text_that_is_not_exactly_of_its_kind_is_refused_with_line_and_column(
    column: str, cells: list[str]
) -> None:
    for cell in cells:
        quoted = cell.replace('"', '""')
        with pytest.raises(LoadError) as caught:
            csv(f'id,{column}\n7,\n8,"{quoted}"\n', Document, null="" if cell else "NA")
        assert (caught.value.line, caught.value.column) == (3 if cell else 2, column), cell
        assert f"column 2 ({column}): expected " in str(caught.value), cell


@pytest.mark.parametrize(
    ("key", "values"),
    [
        (
            "i64",
            [
                '"1_000"',
                '"\uff11"',
                '" 1"',
                '"+1"',
                '"0x10"',
                '"1.0"',
                "1.0",
                "1e3",
                "1.5",
                "true",
                '""',
                "9223372036854775808",
            ],
        ),
        ("u64", ["-1", "18446744073709551616", '"-1"']),
        ("ratio", ["1e39", '"nan"', '"inf "', '"1_0"', "true", '"1e39"']),
        ("flag", ['"true"', "1", '"yes"', "0"]),
        ("at", ['"2013-02-30T00:00:00Z"', "5", '{"seconds": "1_0"}', '{"second": 1}', '"2013-01-01"']),
        ("text", ["1", "true", "[]"]),
        ("raw", ["5", '"?"']),
        ("color", ['"red"', "1.5", "true", "4294967296"]),
        ("numbers", ["[null]", "{}", '["+1"]']),
        ("data", ['{"a": {"@stored": {"numbr_value": 1}}}', "[]"]),
        (
            "any",
            [
                '{"@type": "x/y.Unknown"}',
                '{"@type": "type.googleapis.com/google.protobuf.Duration", "walue": "1s"}',
                "[]",
            ],
        ),
        ("mask", ["5", '"A_b"']),
        ("big", ['"1_0"', "1.0"]),
    ],
)
def test_json_that_is_not_exactly_of_its_kind_is_refused_with_line_and_key(
    key: str, values: list[str]
) -> None:
    for value in values:
        with pytest.raises(LoadError) as caught:
            jsonl(f'{{"id": 7}}\n{{"id": 8, "{key}": {value}}}', Document)
        assert (caught.value.line, caught.value.column) == (2, key), value


def test_two_fields_of_one_oneof_are_refused() -> None:
    for row in ('"oneText": "a", "one_number": 5', '"one_empty": {}, "one_inner": {}'):
        with pytest.raises(LoadError, match=r"<rows>:1: key one_\w+: expected one of one_empty, one_inner"):
            jsonl(f"{{{row}}}", Document)
    with pytest.raises(LoadError, match=r"<rows>:3: column one_number: .* found one_text as well"):
        csv("id,one_text,one_number\n7,a,\n8,a,5\n", Document)
    assert csv("id,one_text,one_number\n7,,5\n", Document) == [Document(id=7, one_number=5)]
    assert jsonl('{"one_text": "a", "one_number": null}', Document) == [Document(one_text="a")]


def test_json_that_is_nested_without_end_is_refused() -> None:
    for text in ("[" * 100_000, '{"body": ' + "[" * 5000 + "]" * 5000 + "}", '{"body": ' * 5000):
        with pytest.raises(LoadError, match="<rows>:1:"):
            jsonl(text, Document)


def test_numbers_times_and_words_are_read_exactly() -> None:
    (row,) = csv(
        "i64,ratio,weight,flag,at,color\n-9223372036854775808,3.4028235e38,-Infinity,1,"
        "2013-01-01T10:00:00.000000001+01:00,77\n",
        Document,
    )
    assert (row.i64, row.weight, row.flag, row.color) == (-(2**63), float("-inf"), True, 77)
    assert (row.ratio, row.at.seconds, row.at.nanos) == (3.4028234663852886e38, 1357030800, 1)
    assert csv("weight\nNaN\n", Document)[0].weight != csv("weight\nNaN\n", Document)[0].weight
    (row,) = jsonl('{"i64": "-17", "optI64": 5, "body": null, "note": null, "nothing": null}', Document)
    assert (row.i64, row.opt_i64, row.body.WhichOneof("kind")) == (-17, 5, "null_value")
    assert not row.HasField("note")


TYPED = st.builds(
    Typed,
    name=st.text(st.characters(exclude_categories=["Cs"])),
    number=st.integers(-(2**31), 2**31 - 1),
    kind=st.sampled_from(list(Typed.Kind.values())),
    packed=st.booleans(),
    json_name=st.text(st.characters(exclude_categories=["Cs"])),
)


@given(st.lists(TYPED))
def test_what_protobuf_writes_as_json_is_read_as_it_was(rows: list[Typed]) -> None:
    lines = [json_format.MessageToJson(row, indent=None) for row in rows]
    assert jsonl("\n".join(lines), Typed) == rows


@given(st.builds(log_pb2.Commit, seq=st.integers(0, 2**64 - 1), time_ns=st.integers(0, 2**64 - 1),
                 actor=st.text(st.characters(exclude_categories=["Cs"])), commit_id=st.binary()))  # fmt: skip
def test_all_of_protobufs_json_is_read(commit: log_pb2.Commit) -> None:
    (read_again,) = jsonl(json_format.MessageToJson(commit, indent=None), log_pb2.Commit)
    assert read_again == commit


def test_floats_and_times_are_read() -> None:
    assert csv("number_value\n1.5\n-inf\n", Value) == [
        Value(number_value=1.5),
        Value(number_value=float("-inf")),
    ]
    assert jsonl('{"numberValue": "Infinity"}\n{"numberValue": 2}', Value)[0].number_value == float("inf")


@pytest.mark.parametrize(
    ("text", "seconds", "nanos"),
    [
        ("2013-01-01T10:00:00Z", 1357034400, 0),
        ("2013-01-01T10:00:00+01:00", 1357030800, 0),
        ("1969-12-31T23:59:59.25Z", -1, 250_000_000),
        ("2013-01-01T10:00:00.123456789Z", 1357034400, 123_456_789),
    ],
)
def test_times_are_read_to_the_nanosecond(project: Project, text: str, seconds: int, nanos: int) -> None:
    timed = 'import "google/protobuf/timestamp.proto";\nmessage Airport { string faa = 1; string name = 2;'
    project.add(model=timed + " google.protobuf.Timestamp opened = 3; }")
    model = project.build().load()[0].tables[0].model
    expected = [model(opened=Timestamp(seconds=seconds, nanos=nanos))]
    assert csv(f"opened\n{text}\n", model) == expected
    assert jsonl(f'{{"opened": "{text}"}}', model) == expected


@pytest.mark.parametrize("text", ["yesterday", "2013-01-01T10:00:00", ""])
def test_a_time_without_its_zone_is_none(project: Project, text: str) -> None:
    timed = 'import "google/protobuf/timestamp.proto";\nmessage Airport { string faa = 1; string name = 2;'
    project.add(model=timed + " google.protobuf.Timestamp opened = 3; }")
    model = project.build().load()[0].tables[0].model
    with pytest.raises(LoadError, match="expected a time as 2013-01-01T10:00:00Z"):
        csv(f"faa,opened\nJFK,{text}\n", model, null="NA")


class _Endless(io.RawIOBase):
    """A file that begins with some text and repeats another without end."""

    name = "rows"

    def __init__(self, begin: bytes, again: bytes) -> None:
        self._left, self._again = begin, again * max(1, (1 << 16) // len(again))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._left = self._left or self._again
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size


@pytest.mark.parametrize(
    ("read", "begin", "again", "error"),
    [
        (read_jsonl, b'{"name": "a"}\n', b" ", "rows:2: the line has more than 33,554,432 bytes"),
        (read_csv, b"name\nx\n", b"x", "rows:3: the line has more than 33,554,432 bytes"),
        (read_csv, b'name\nx\n"', b"x" * 65535 + b"\n", r"rows:\d+: not CSV: field larger than field limit"),
        (
            read_csv,
            b"name\nx\n",
            b'"' + b"x" * 65535 + b'\n",',
            r"rows:\d+: the row that .* 33,554,432 bytes; is",
        ),
        (read_csv, b"name\nx\n", b",", "rows:3: the line has more than"),
    ],
)
def test_a_row_without_end_is_refused_with_its_line(
    read: Any, begin: bytes, again: bytes, error: str
) -> None:
    with pytest.raises(LoadError, match=error):
        list(read(io.BufferedReader(_Endless(begin, again)), INFO))


def test_a_row_of_too_many_cells_is_refused_before_it_is_split() -> None:
    with pytest.raises(
        LoadError, match="<rows>:2: the row that ends here or later has more than 5,242,880 commas"
    ):
        list(read_csv(io.BytesIO(b"name\n" + b"," * (6 << 20)), INFO))
