"""Proofs as files: a written proof is read back, and an edited one is refused."""

from __future__ import annotations

import pytest

from everlog.audit import merkle, proof
from everlog.audit.merkle import entry_of
from everlog.audit.note import Signer
from everlog.audit.proof import Checkpoint, Consistency, Inclusion
from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.errors import CorruptionError, Error
from tests.audit.test_merkle import nodes_of

RECORDS = [record.unframe(record.frame(log_pb2.Commit(seq=seq)), seq) for seq in range(1, 8)]
NODES = nodes_of([entry_of(one) for one in RECORDS])
SIGNER = Signer.generate("example.com/log")


def checkpoint(size: int, origin: str = "example.com/log") -> Checkpoint:
    return Checkpoint(origin, size, merkle.root(NODES, size))


def test_a_checkpoint_is_written_and_read() -> None:
    there = checkpoint(7)
    text = there.sign(SIGNER)
    assert proof.parse(text) == text
    assert proof.open_checkpoint(text, SIGNER.verifier) == there
    lines = text.splitlines()
    assert lines[:2] == ["example.com/log", "7"]
    assert lines[3] == ""


def test_a_checkpoint_of_another_log_is_refused() -> None:
    text = checkpoint(7, "example.com/other").sign(SIGNER)
    with pytest.raises(CorruptionError, match=r"--origin example\.com/other"):
        proof.open_checkpoint(text, SIGNER.verifier)
    assert proof.open_checkpoint(text, SIGNER.verifier, "example.com/other").size == 7


def test_inclusion_is_shown_by_a_file_and_a_key() -> None:
    for index, one in enumerate(RECORDS):
        text = Inclusion(index, one, merkle.inclusion(NODES, index, 7), checkpoint(7).sign(SIGNER)).text()
        found = proof.parse(text)
        assert isinstance(found, Inclusion)
        assert (found.leaf_index, found.record) == (index, one)
        found.verify(proof.open_checkpoint(found.note, SIGNER.verifier))
        with pytest.raises(CorruptionError, match="is not in that tree"):
            found._replace(record=b"another").verify(checkpoint(7))


def test_a_record_that_is_in_the_tree_at_another_place_than_it_says_is_refused() -> None:
    swapped = [RECORDS[1], RECORDS[0], *RECORDS[2:], b"no record"]
    nodes = nodes_of([entry_of(one) for one in swapped])
    there = Checkpoint("example.com/log", len(swapped), merkle.root(nodes, len(swapped)))
    for index, said in ((1, "1"), (7, "none")):
        shown = Inclusion(index, swapped[index], merkle.inclusion(nodes, index, len(swapped)), "")
        with pytest.raises(CorruptionError, match=f"expected record {index + 1} .* with seq {said}"):
            shown.verify(there)


def test_consistency_is_shown_by_a_file_a_key_and_the_checkpoint_that_was_kept() -> None:
    for old in range(8):
        text = Consistency(old, merkle.consistency(NODES, old, 7), checkpoint(7).sign(SIGNER)).text()
        found = proof.parse(text)
        assert isinstance(found, Consistency)
        found.verify(checkpoint(old), proof.open_checkpoint(found.note, SIGNER.verifier))
        with pytest.raises(CorruptionError):
            found.verify(checkpoint(old)._replace(root=b"x" * 32), checkpoint(7))
        with pytest.raises(CorruptionError, match=f"to be example.com/log of size {old}"):
            found.verify(checkpoint(old)._replace(size=old + 1), checkpoint(7))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c2sp.org/tlog-proof@v1\n",
        "c2sp.org/tlog-proof@v1\nindex 1\n",
        "c2sp.org/tlog-proof@v1\nindex 01\n\nnote",
        "c2sp.org/tlog-proof@v1\nindex x\n\nnote",
        "c2sp.org/tlog-proof@v1\nextra ?\nindex 1\n\nnote",
        "c2sp.org/tlog-proof@v1\nextra é\nindex 1\n\nnote",
        "c2sp.org/tlog-proof@v1\nextra QR==\nindex 1\n\nnote",
        "c2sp.org/tlog-proof@v1\nindex " + "9" * 5000 + "\n\nnote",
        "c2sp.org/tlog-proof@v1\n\nnote",
        "c2sp.org/tlog-proof@v1\nindex 1\nAAAA\n\nnote",
        "old 1\nAAAA\n\nnote",
        "old\n\nnote",
        "old -1\n\nnote",
        "anything else",
    ],
)
def test_what_is_no_proof_is_refused(text: str) -> None:
    with pytest.raises(CorruptionError, match="expected"):
        proof.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "a\n1\n", "a\n1\nAAAA\n"]
    + [f"{lines}\n{'A' * 43}=\n" for lines in ("a\nx", "\n1", "a\n01", "a\n-1", "a\n" + "9" * 5000)],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(CorruptionError, match="expected"):
        proof.read(text)


def test_an_origin_has_no_spaces() -> None:
    assert proof.check_origin("example.com/log") == "example.com/log"
    for origin in ("", "a b", "a\n"):
        with pytest.raises(Error, match="origin"):
            proof.check_origin(origin)
