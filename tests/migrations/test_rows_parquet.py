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


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(LoadError, match="not Parquet"):
        list(read(tmp_path / "rows.parquet", log_pb2.Commit))
