"""Header blocks: decoded as another decoder does, bounded, and checked."""

from __future__ import annotations

import contextlib

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlog.rpc.http2.frames import END_HEADERS, HEADERS, Code, ProtocolError, StreamError
from everlog.rpc.http2.headers import (
    BLOCK_BYTES_MAX,
    Decoder,
    HeaderBlocks,
    check_trailers,
    field,
    header_block,
    request,
)

names = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
headers = st.lists(st.tuples(names, st.text(max_size=200), st.booleans()), max_size=8)
REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/x")]


@given(st.lists(st.tuples(headers, st.booleans(), st.sampled_from((None, 0, 100, 4096))), max_size=6))
def test_blocks_are_decoded_as_they_were_encoded(
    blocks: list[tuple[list[tuple[str, str, bool]], bool, int | None]],
) -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    for sent, huffman, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        found, oversized = decoder.decode(encoder.encode(sent, huffman=huffman))
        assert [(one.name, one.value) for one in found] == [(name, value) for name, value, _ in sent]
        assert not oversized


@given(st.binary(max_size=300))
def test_nonsense_is_refused_as_such(block: bytes) -> None:
    with contextlib.suppress(ProtocolError):  # and no other error
        Decoder().decode(block)


def test_a_list_over_the_limit_leaves_the_table_as_it_should_be() -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    first = encoder.encode([("big", "x" * 3000)])
    decoder.decode(first)
    bomb = encoder.encode([("big", "x" * 3000)] * 1000 + [("last", "one")])
    assert len(bomb) < 1100
    found, oversized = decoder.decode(bomb)
    assert oversized
    assert sum(one.size for one in found) <= BLOCK_BYTES_MAX
    again, _ = decoder.decode(encoder.encode([("last", "one")]))
    assert [(one.name, one.value) for one in again] == [("last", "one")]


@pytest.mark.parametrize(
    "block",
    [
        b"\x20\x20\x20",  # a third change of the table's size
        b"\x82\x20",  # one after a header
        b"\x3f\xe2\x1f",  # above 4096
        b"\x80",  # index 0
        b"\xff\xff\xff\xff\xff\xff\x7f",  # an integer without end
        b"\xc0",  # an entry that is not there
        b"\x00\x05ab",  # cut off
        b"\x00\x81\x00\x01x",  # Huffman padding of zeros
    ],
)
def test_an_invalid_block_ends_the_connection(block: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        Decoder().decode(block)
    assert caught.value.code is Code.COMPRESSION_ERROR


def decoded(pairs: list[tuple[str, str]]) -> dict[str, str]:
    found, _ = Decoder().decode(header_block(pairs))
    return request(found)


def test_a_request_is_its_headers_with_repeated_ones_joined() -> None:
    assert decoded([*REQUEST, ("a", "1"), ("a", "2"), ("cookie", "b=1"), ("cookie", "c=2")]) == {
        **dict(REQUEST),
        "a": "1,2",
        "cookie": "b=1; c=2",
    }


@pytest.mark.parametrize(
    "pairs",
    [
        REQUEST[1:],
        [*REQUEST, (":path", "/y")],
        [*REQUEST, (":status", "200")],
        [*REQUEST, (":protocol", "websocket")],
        [*REQUEST[:2], ("a", "b"), REQUEST[2]],
        [*REQUEST[:2], (":path", "")],
        [*REQUEST, ("Upper", "x")],
        [*REQUEST, ("", "x")],
        [*REQUEST, ("a b", "x")],
        [*REQUEST, ("a", "x\r\ny: z")],
        [*REQUEST, ("a", "\0")],
        [*REQUEST, ("a", " x")],
        [*REQUEST, ("connection", "close")],
        [*REQUEST, ("transfer-encoding", "chunked")],
        [*REQUEST, ("upgrade", "h2c")],
        [*REQUEST, ("te", "gzip")],
        [*REQUEST, ("content-length", "-1")],
        [*REQUEST, ("content-length", "1"), ("content-length", "2")],
        [*REQUEST, (":authority", "a"), ("host", "b")],
    ],
)
def test_a_malformed_request_is_refused(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(StreamError):
        decoded(pairs)


@pytest.mark.parametrize("name", [":path", ":status", "Upper", "connection"])
def test_malformed_trailers_are_refused(name: str) -> None:
    with pytest.raises(StreamError):
        check_trailers([field(b"a", b"b"), field(name.encode(), b"x")])


def test_an_equal_block_is_the_same_request_until_the_table_changes() -> None:
    blocks = HeaderBlocks()
    encoder = hpack.Encoder()

    def take(pairs: list[tuple[str, str]]) -> dict[str, str]:
        block = blocks.take(HEADERS, END_HEADERS, 1, encoder.encode(pairs))
        assert block is not None
        if block.known is not None:
            return block.known
        headers = request(block.fields)
        blocks.keep(block, headers)
        return headers

    one, two = [*REQUEST, ("a", "1")], [*REQUEST, ("a", "2")]
    take(one)
    first = take(one)
    assert take(one) is first
    assert take(two) == dict(two)  # which changes the table: the bytes of `one` mean another entry
    assert take(one) == dict(one)
    assert take(two) == dict(two)
