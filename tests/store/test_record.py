"""Records and their frames: whole, verified, and joined into batches."""

from __future__ import annotations

import contextlib
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.errors import CorruptionError, RowError

COMMITS = st.builds(
    log_pb2.Commit,
    seq=st.integers(1, 2**64 - 1),
    time_ns=st.integers(0, 2**64 - 1),
    schema=st.integers(0, 2**64 - 1),
    changes=st.lists(
        st.builds(
            log_pb2.Change,
            space=st.integers(1, 2**32 - 1),
            op=st.sampled_from((log_pb2.PUT, log_pb2.DELETE)),
            key=st.binary(max_size=20),
            row=st.binary(max_size=300),
            prior=st.integers(0, 2**64 - 1),
        ),
        max_size=20,
    ),
    actor=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    commit_id=st.binary(max_size=16),
)


@given(*[st.integers(1, 2**64 - 1)] * 2, *[st.integers(0, 2**64 - 1)] * 2)
def test_the_head_of_a_commit_is_what_protobuf_makes_of_it(
    seq: int, time_ns: int, version: int, reading_ns: int
) -> None:
    commit = log_pb2.Commit(seq=seq, time_ns=time_ns, schema=version, reading_ns=reading_ns)
    assert (
        record.commit_header(seq, time_ns, record.schema_field(version), reading_ns)
        == commit.SerializeToString()
    )


def sample(**fields: Any) -> log_pb2.Commit:
    return log_pb2.Commit(seq=7, time_ns=1, actor="ann", **fields)


@given(COMMITS)
def test_a_commit_comes_back_with_the_checksum_of_its_bytes(commit: log_pb2.Commit) -> None:
    framed = record.frame(commit)
    back = record.decode(framed, commit.seq)
    assert back.checksum == record.checksum_of(framed) == crc32(commit.SerializeToString())
    assert record.unframe(framed, commit.seq).endswith(b"\x7d" + back.checksum.to_bytes(4, "little"))
    assert record.seq_of(framed) == commit.seq
    back.ClearField("checksum")
    assert back == commit


@given(st.lists(COMMITS, max_size=5))
def test_joined_records_are_a_batch(commits: list[log_pb2.Commit]) -> None:
    framed = [record.frame(commit) for commit in commits]
    joined = b"".join(framed)
    assert list(record.split(joined)) == framed
    assert [commit.seq for commit in log_pb2.Batch.FromString(joined).commits] == [c.seq for c in commits]


@given(COMMITS, st.data())
def test_a_flipped_bit_is_found_wherever_it_is(commit: log_pb2.Commit, data: st.DataObject) -> None:
    framed = bytearray(record.frame(commit))
    framed[data.draw(st.integers(0, len(framed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorruptionError) as caught:
        record.decode(bytes(framed), commit.seq)
    assert caught.value.seq == commit.seq


@given(COMMITS, st.data())
def test_a_record_that_was_cut_short_is_found(commit: log_pb2.Commit, data: st.DataObject) -> None:
    framed = record.frame(commit)
    with pytest.raises(CorruptionError, match=f"record {commit.seq} of the log is damaged"):
        record.decode(framed[: data.draw(st.integers(0, len(framed) - 1))], commit.seq)


def test_a_record_in_the_place_of_another_is_found() -> None:
    with pytest.raises(CorruptionError, match="expected record 8 of the log, found one with seq 7"):
        record.decode(record.frame(sample()), 8)


def test_a_record_that_is_whole_and_no_commit_is_found() -> None:
    sealed = record.seal(b"\x08\x07\x0a\xff")
    with pytest.raises(CorruptionError, match="record 7 of the log is not a Commit"):
        record.decode(b"\x0a" + record.varint(len(sealed)) + sealed, 7)


def test_a_record_that_needs_an_unknown_feature_is_refused_with_the_remedy() -> None:
    with pytest.raises(CorruptionError, match=r"record 7 requires feature\(s\) \[9\].*use a newer one"):
        record.decode(record.frame(sample(requires=[9, 3])), 7)


def test_a_commit_over_the_limit_is_refused_and_one_at_the_limit_is_not() -> None:
    commit = sample(changes=[log_pb2.Change(space=1, row=bytes(record.RECORD_BYTES_MAX - 100))])
    room = record.RECORD_BYTES_MAX - len(commit.SerializeToString()) - record.CHECKSUM_SIZE
    commit.changes[0].row += bytes(room)
    assert record.decode(record.frame(commit), 7).seq == 7
    commit.changes[0].row += b"!"
    with pytest.raises(RowError, match=r"the commit has 8,388,609 bytes; the limit is 8,388,608; split the"):
        record.frame(commit)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3))
def test_varints_are_those_of_protobuf(value: int, before: bytes) -> None:
    encoded = record.varint(value)
    assert record.read_varint(before + encoded, len(before)) == (value, len(before) + len(encoded))
    assert log_pb2.Commit(seq=value).SerializeToString() == (b"\x08" + encoded if value else b"")


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80" * 12])
def test_a_varint_that_does_not_end_is_found(data: bytes) -> None:
    with pytest.raises(CorruptionError):
        record.read_varint(data, 0)


@pytest.mark.parametrize("bad", [b"\x0b\x00", b"\x0a\x05abc", b"\x0a"])
def test_a_batch_that_is_damaged_says_at_which_byte(bad: bytes) -> None:
    good = record.frame(sample())
    with pytest.raises(CorruptionError, match=r"a batch is damaged at byte|end of the data"):
        list(record.split(good + bad))


@given(COMMITS)
def test_the_time_of_a_record_is_read_from_its_first_bytes(commit: log_pb2.Commit) -> None:
    assert record.time_of(record.frame(commit)) == commit.time_ns


@pytest.mark.parametrize("raw", [b"", b"\x0a", b"\x0a\x02\x08", b"\x0a\x03\x08\x01\x11"])
def test_a_record_that_ends_before_its_time_is_damaged_or_has_none(raw: bytes) -> None:
    with contextlib.suppress(CorruptionError):
        assert record.time_of(raw) == 0
