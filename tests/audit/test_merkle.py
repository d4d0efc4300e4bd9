"""Trees and proofs: the reference data of Certificate Transparency (RFC 6962, RFC 9162), and laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlog.audit import merkle
from everlog.store.errors import CorruptionError

LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        *("", "00", "10", "2021", "3031", "40414243", "5051525354555657"),
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
A1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B1 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C1 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
L4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
B3 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
B2 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"

INCLUSION = [  # index, size, proof
    (0, 1, []),
    (0, 8, [A1, B1, C1]),
    (5, 8, [L4, B3, ROOTS[4]]),
    (2, 3, [ROOTS[2]]),
    (1, 5, [ROOTS[1], B1, L4]),
]
CONSISTENCY = [  # first, size, proof
    (1, 1, []),
    (1, 8, [A1, B1, C1]),
    (6, 8, [B2, B3, ROOTS[4]]),
    (2, 5, [B1, L4]),
]


def nodes_of(leaves: list[bytes]) -> merkle.Nodes:
    def node(level: int, index: int) -> bytes:
        width = 1 << level
        assert (index + 1) * width <= len(leaves), "a node of a perfect subtree that is there"
        hashes = [merkle.leaf_hash(leaf) for leaf in leaves[index * width : (index + 1) * width]]
        return merkle.perfect(b"".join(hashes))

    return node


NODES = nodes_of(LEAVES)


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_the_reference(size: int) -> None:
    assert merkle.root(NODES, size).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_inclusion_proofs_are_those_of_the_reference(index: int, size: int, proof: list[str]) -> None:
    found = merkle.inclusion(NODES, index, size)
    assert [one.hex() for one in found] == proof
    merkle.verify_inclusion(index, size, merkle.leaf_hash(LEAVES[index]), found, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("first", "size", "proof"), CONSISTENCY)
def test_consistency_proofs_are_those_of_the_reference(first: int, size: int, proof: list[str]) -> None:
    found = merkle.consistency(NODES, first, size)
    assert [one.hex() for one in found] == proof
    roots = bytes.fromhex(ROOTS[first]), bytes.fromhex(ROOTS[size])
    merkle.verify_consistency(first, size, *roots, found)


@given(st.data())
def test_every_proof_is_verified_and_none_that_was_touched(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 70))
    leaves = [bytes((number,)) for number in range(size)]
    nodes = nodes_of(leaves)
    root = merkle.root(nodes, size)
    index = data.draw(st.integers(0, size - 1))
    leaf, proof = merkle.leaf_hash(leaves[index]), merkle.inclusion(nodes, index, size)
    merkle.verify_inclusion(index, size, leaf, proof, root)
    first = data.draw(st.integers(0, size))
    old, path = merkle.root(nodes, first), merkle.consistency(nodes, first, size)
    merkle.verify_consistency(first, size, old, root, path)

    with pytest.raises(CorruptionError, match="expected"):
        merkle.verify_inclusion(index, size, merkle.leaf_hash(b"other"), proof, root)
    for touched in mutations(proof, data):
        with pytest.raises(CorruptionError):
            merkle.verify_inclusion(index, size, leaf, touched, root)
    for touched in mutations(path, data):
        with pytest.raises(CorruptionError):
            merkle.verify_consistency(first, size, old, root, touched)


def mutations(proof: list[bytes], data: st.DataObject) -> list[list[bytes]]:
    found = [[*proof, merkle.EMPTY]]
    if proof:
        at, byte = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
        bad = bytearray(proof[at])
        bad[byte // 8] ^= 1 << byte % 8
        found += [proof[:at] + proof[at + 1 :], [*proof[:at], bytes(bad), *proof[at + 1 :]]]
    return found


def test_an_index_or_a_size_that_cannot_be_is_refused() -> None:
    with pytest.raises(CorruptionError, match="below the tree's size 4, found 4"):
        merkle.verify_inclusion(4, 4, merkle.EMPTY, [], merkle.EMPTY)
    with pytest.raises(CorruptionError, match="at most 4 entries, found one of 5"):
        merkle.verify_consistency(5, 4, merkle.EMPTY, merkle.EMPTY, [])
