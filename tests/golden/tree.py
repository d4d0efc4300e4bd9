"""Samples of a tree of one record, of its checkpoint, and of proofs."""

from __future__ import annotations

from everlog.audit.merkle import leaf_of
from everlog.audit.note import Signer
from everlog.audit.proof import Checkpoint, Consistency, Inclusion

SIGNER = (
    "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"  # signed-note's example
)
ORIGIN = "everlog/0f8fad5b-d9cb-469f-a165-70867728950e"


def tree(created: bytes) -> dict[str, bytes]:
    """Return the tree of the first record of a log, unframed."""
    signed = Checkpoint(ORIGIN, 1, leaf_of(created)).sign(Signer.parse(SIGNER))
    return {
        "leaf": leaf_of(created),
        "checkpoint": signed.encode(),
        "inclusion": Inclusion(0, created, [], signed).text().encode(),
        "consistency": Consistency(0, [], signed).text().encode(),
    }
