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
        ("name,name\n", 1, None, "column 2: the header names it twice"),
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
    ],
)
def test_a_json_row_that_does_not_fit_is_said_with_line_and_key(
    text: str, line: int, column: str | None, said: str
) -> None:
    with pytest.raises(LoadError) as caught:
        jsonl(text)
    assert said in str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column)


@pytest.mark.parametrize("name", ["rows.txt", "rows"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LoadError, match=r"expected a file named \.csv or \.jsonl"):
        next(read(tmp_path / name, INFO))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="No such file"):
        next(read(tmp_path / "rows.csv", INFO))


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
