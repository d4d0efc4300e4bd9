from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import everlog
from everlog.feed import message
from everlog.proto import feed_pb2, log_pb2
from everlog.store import record

MARK = feed_pb2.Mark(state=feed_pb2.Mark.LIVE, position=log_pb2.Cursor(seq=3, checksum=7), head=3)

changes = st.builds(log_pb2.Change, key=st.binary(max_size=20), row=st.binary(max_size=200))
commits = st.builds(
    log_pb2.Commit,
    seq=st.integers(1, 2**63),
    time_ns=st.integers(0, 2**63),
    actor=st.text(max_size=20),
    changes=st.lists(
        st.builds(log_pb2.Change, key=st.binary(max_size=20), row=st.binary(max_size=200)), max_size=4
    ),
)


def framed(*some: log_pb2.Commit) -> bytes:
    parts = []
    for commit in some:
        body = record.seal(commit.SerializeToString())
        parts.append(b"\x0a" + record.varint(len(body)) + body)
    return b"".join(parts)


@given(st.lists(commits, max_size=5), st.booleans())
def test_what_was_built_is_read(some: list[log_pb2.Commit], told: bool) -> None:
    schema = log_pb2.Schema(version=7) if told else None
    batch = message.read(message.build(framed(*some), MARK, schema))
    assert batch.mark == MARK
    assert batch.schema == schema
    for found, sent in zip(batch.commits, some, strict=True):
        found.ClearField("checksum")
        assert found == sent


@given(st.data())
def test_a_byte_that_changed_on_the_way_is_noticed(data: st.DataObject) -> None:
    raw = bytearray(message.build(framed(log_pb2.Commit(seq=1, actor="ann")), MARK))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(everlog.CorruptionError, match="does not match its checksum"):
        message.read(bytes(raw))


@pytest.mark.parametrize("raw", [b"", b"\x7d", b"garbage", bytes(100)])
def test_what_is_no_message_is_refused(raw: bytes) -> None:
    with pytest.raises(everlog.CorruptionError):
        message.read(raw)


def test_a_message_is_a_plain_protobuf_message() -> None:
    raw = message.build(framed(log_pb2.Commit(seq=1)), MARK, log_pb2.Schema(version=7))
    plain = feed_pb2.FeedMessage.FromString(raw)
    assert plain.checksum == record.checksum_of(raw)
    assert [commit.seq for commit in plain.commits] == [1]
