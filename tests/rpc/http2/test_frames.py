from __future__ import annotations

from urllib.parse import unquote

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlog.rpc.http2 import frames as http2
from everlog.rpc.http2 import headers
from everlog.rpc.http2.headers import header_block

frames = st.tuples(
    st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**31 - 1), st.binary(max_size=300)
)
names = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True).filter(lambda name: not name.endswith("-bin"))


@given(st.lists(frames, max_size=6), st.lists(st.integers(1, 50), max_size=60))
def test_frames_are_taken_whole_however_they_arrive(
    sent: list[tuple[int, int, int, bytes]], cuts: list[int]
) -> None:
    data = b"".join(http2.frame(*one) for one in sent)
    buffer = bytearray()
    found: list[tuple[int, int, int, bytes]] = []
    for size in [*cuts, len(data)]:
        buffer += data[:size]
        data = data[size:]
        found += http2.frames(buffer)
    assert found == sent
    assert not buffer


def test_a_frame_over_the_limit_is_refused() -> None:
    buffer = bytearray(http2.frame(http2.DATA, 0, 1, bytes(http2.FRAME_BYTES_MAX + 1)))
    with pytest.raises(http2.ProtocolError) as caught:
        list(http2.frames(buffer))
    assert caught.value.code is http2.Code.FRAME_SIZE_ERROR


@given(st.lists(st.tuples(names, st.text(max_size=400)), max_size=5))
def test_a_header_block_is_read_by_a_whole_decoder(sent: list[tuple[str, str]]) -> None:
    found = hpack.Decoder().decode(header_block(sent))
    assert [(str(name), str(value)) for name, value in found] == sent


@given(st.text())
def test_a_status_message_is_printable_and_comes_back(text: str) -> None:
    escaped = headers.escaped(text)
    assert escaped.isascii()
    assert escaped.isprintable() or not escaped
    assert unquote(escaped) == text


@given(st.binary(max_size=100), st.integers(0, 50))
def test_padding_is_taken_away(content: bytes, padding: int) -> None:
    payload = bytes((padding,)) + content + bytes(padding)
    assert http2.unpadded(http2.PADDED, payload) == content
    assert http2.unpadded(0, content) == content


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x05abc"])
def test_padding_as_long_as_its_frame_is_refused(payload: bytes) -> None:
    with pytest.raises(http2.ProtocolError):
        http2.unpadded(http2.PADDED, payload)


@given(st.dictionaries(st.integers(6, 65535), st.integers(0, 2**32 - 1), max_size=6))
def test_settings_come_back(values: dict[int, int]) -> None:
    ((kind, flags, stream, payload),) = http2.frames(bytearray(http2.settings(values)))
    assert (kind, flags, stream) == (http2.SETTINGS, 0, 0)
    assert dict(http2.read_settings(payload)) == values
