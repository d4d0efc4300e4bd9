from __future__ import annotations

import pytest

import everlog
from everlog.feed.filter import TableFilter
from everlog.proto import log_pb2
from everlog.store import record
from tests.feed.test_message import framed


def schema(**spaces: int) -> log_pb2.Schema:
    tables = [log_pb2.TableSchema(name=name, id=space % 10, space=space) for name, space in spaces.items()]
    return log_pb2.Schema(version=1, tables=tables)


def commit(seq: int, *spaces: int) -> log_pb2.Commit:
    return log_pb2.Commit(seq=seq, changes=[log_pb2.Change(space=space, row=b"row") for space in spaces])


def left(only: TableFilter, *some: log_pb2.Commit) -> tuple[dict[int, list[int]], TableFilter]:
    """Return seq and spaces of the remaining changes, and the filter afterwards."""
    raw, after = only.apply(framed(*some))
    commits = log_pb2.Batch.FromString(raw).commits
    return {one.seq: [change.space for change in one.changes] for one in commits}, after


ONLY_A = TableFilter.of(["a"], schema(a=1, b=2), [schema(a=1, b=2)])


def test_changes_of_other_tables_are_dropped_and_commits_without_any_left() -> None:
    found, after = left(ONLY_A, commit(1, 1), commit(2, 2), commit(3, 2, 1, 2), commit(4))
    assert found == {1: [1], 3: [1]}
    assert after == ONLY_A


def test_a_commit_that_is_kept_whole_keeps_its_bytes() -> None:
    raw = framed(commit(1, 1, 1))
    assert ONLY_A.apply(raw)[0] == raw


def test_what_is_left_carries_the_checksum_of_the_whole_record() -> None:
    raw = framed(commit(1, 1, 2))
    (kept,) = log_pb2.Batch.FromString(ONLY_A.apply(raw)[0]).commits
    assert kept.checksum == record.checksum_of(raw)


def test_a_migration_is_kept_and_moves_the_filter_to_the_tables_new_space() -> None:
    migration = commit(5, 11, 2)
    migration.migration.schema.CopyFrom(schema(a=11, b=2))
    found, after = left(ONLY_A, migration, commit(6, 1), commit(7, 11))
    assert found == {5: [11], 7: [11]}
    assert after.spaces == {11}
    bare = commit(8, 2)
    bare.migration.version = 9
    assert left(after, bare)[0] == {8: []}


def test_a_name_that_was_never_one_is_refused_with_those_that_were() -> None:
    with pytest.raises(everlog.SchemaError, match="no table c to follow; the tables are: a, b"):
        TableFilter.of(["a", "c"], schema(), [schema(a=1), schema(b=2)])


def test_a_damaged_batch_is_an_error() -> None:
    with pytest.raises(everlog.CorruptionError):
        ONLY_A.apply(framed(commit(1, 1))[:-1])
