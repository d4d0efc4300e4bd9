from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from everlog import LoadError
from everlog.migrations.rows import read
from everlog.proto import log_pb2
from tests.migrations.project import Project

pytest.importorskip("pyarrow", reason="an extra of its own")


def write(path: Path, columns: dict[str, list[Any]]) -> Path:
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    parquet.write_table(arrow.table(columns), path)
    return path


def test_columns_become_fields_lists_and_structs_too(tmp_path: Path) -> None:
    path = write(
        tmp_path / "commits.parquet",
        {
            "seq": [1.0, 2.0],
            "actor": ["ann", None],
            "commit_id": [b"\0\1", b""],
            "changes": [[{"space": 3, "key": b"k"}], []],
            "requires": [[7, 8], None],
        },
    )
    changed = log_pb2.Change(space=3, key=b"k")
    assert list(read(path, log_pb2.Commit)) == [
        log_pb2.Commit(seq=1, actor="ann", commit_id=b"\0\1", changes=[changed], requires=[7, 8]),
        log_pb2.Commit(seq=2),
    ]


def test_times_with_and_without_a_zone_are_read(tmp_path: Path, project: Project) -> None:
    timed = 'import "google/protobuf/timestamp.proto";\nmessage Airport { string faa = 1; string name = 2;'
    project.add(model=timed + " google.protobuf.Timestamp opened = 3; }")
    model = project.build().load()[0].tables[0].model
    moment = datetime(2013, 1, 1, 10, 0, 0, 250, tzinfo=UTC)
    for value in (moment, moment.replace(tzinfo=None)):
        path = write(tmp_path / "times.parquet", {"opened": [value]})
        assert list(read(path, model)) == [model(opened=Timestamp(seconds=1357034400, nanos=250_000))]


@pytest.mark.parametrize(
    ("columns", "line", "column", "said"),
    [
        ({"colour": [1]}, 1, None, "column 1: everlog.v1.Commit has no such field"),
        ({"seq": [1, -1]}, 2, "seq", "column seq: expected a uint64, found int"),
        ({"actor": [7]}, 1, "actor", "expected a string, found int"),
    ],
)
def test_a_row_that_does_not_fit_is_said_with_its_number_and_column(
    tmp_path: Path, columns: dict[str, list[Any]], line: int, column: str | None, said: str
) -> None:
    path = write(tmp_path / "rows.parquet", columns)
    with pytest.raises(LoadError) as caught:
        list(read(path, log_pb2.Commit))
    assert said in str(caught.value)
    assert (caught.value.file, caught.value.line, caught.value.column) == (str(path), line, column)


MODEL = """
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
message Airport {
  string faa = 1; string name = 2; map<string, float> heights = 3;
  Runway runway = 4; repeated Runway runways = 5;
  google.protobuf.FloatValue wind = 6; google.protobuf.Struct notes = 7; repeated float temperatures = 8;
}
message Runway { float length = 1; oneof use { string landing = 2; bool closed = 3; } Runway opposite = 4; }
"""


@pytest.fixture
def airport(project: Project) -> Any:
    project.add(model=MODEL)
    return project.build().load()[0].tables[0].model


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("heights", {"a": 1e39}),
        ("heights", [("a", -1e39)]),
        ("heights", [("a", 1.0), ("a", 2.0)]),
        ("heights", {"a": True}),
        ("wind", {"value": 1e39}),
        ("runway", {"length": 1e39}),
        ("runway", {"opposite": {"length": 1e39}}),
        ("runways", [{"length": 1.0}, {"length": 1e39}]),
        ("runway", {"length": True}),
        ("runway", {"landing": "west", "closed": True}),
        ("runway", {"width": 1}),
        ("temperatures", [True]),
        ("temperatures", [1e39]),
    ],
)
def test_an_inner_value_that_does_not_fit_is_refused_as_any(
    tmp_path: Path, airport: Any, column: str, value: Any
) -> None:
    columns = {"faa": ["JFK", "LGA"], column: [None, value]}
    if isinstance(value, list) and isinstance(value[0], tuple):
        arrow = import_module("pyarrow")
        columns[column] = arrow.array(columns[column], arrow.map_(arrow.string(), arrow.float64()))
    path = write(tmp_path / "rows.parquet", columns)
    with pytest.raises(LoadError, match=f"rows.parquet:2: column {column}: expected "):
        list(read(path, airport))


def test_inner_values_are_read_exactly(tmp_path: Path, airport: Any) -> None:
    arrow = import_module("pyarrow")
    columns = {
        "heights": arrow.array(
            [[("a", 1.5), ("b", float("inf"))]], arrow.map_(arrow.string(), arrow.float64())
        ),
        "runway": [{"length": 1.5, "landing": None, "closed": False, "opposite": {"length": 2}}],
        "runways": ['[{"length": 3}]'],
        "wind": [{"value": 0.5}],
        "notes": [{"a": 1.5, "b": {"c": ["d"]}}],
        "temperatures": [[1, -1.5]],
    }
    (row,) = read(write(tmp_path / "rows.parquet", columns), airport)
    made = airport(
        heights={"a": 1.5, "b": float("inf")},
        runway={"length": 1.5, "closed": False, "opposite": {"length": 2}},
        runways=[{"length": 3}],
        wind={"value": 0.5},
        temperatures=[1, -1.5],
    )
    made.notes.update({"a": 1.5, "b": {"c": ["d"]}})
    assert row == made


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(LoadError, match="not Parquet"):
        list(read(tmp_path / "rows.parquet", log_pb2.Commit))
