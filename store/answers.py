"""Answers: what those are told whose commits another has taken along.

Invariants
  (1) nobody is told of a commit that is not in the log;
  (2) nobody is left without an answer.
"""

from __future__ import annotations

from collections.abc import Iterable

from everlog.store.errors import DiskError
from everlog.store.transaction import Transaction


def answer_repeated(group: Iterable[Transaction]) -> None:
    """Those who came twice in one group get the first one's answer."""
    for transaction in group:
        first = transaction.same_as
        if first is not None:
            transaction.error = first.error
            transaction.result = first.result and first.result._replace(repeated=True).lacking(first.missing)


def answer_unwritten(followers: Iterable[Transaction], written: int) -> None:
    """Their leader was interrupted, and the log ends at `written`."""
    for transaction in followers:
        # One of seq 0 changed nothing, perhaps because of another that was not written.
        if transaction.error is None and (
            transaction.result is None or not 0 < transaction.result.seq <= written
        ):
            transaction.result = None
            transaction.error = DiskError(
                "who took this commit along was interrupted, and it was not written; run it again",
                outcome="nothing written",
            )
