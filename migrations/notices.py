"""Notices: what somebody was told of, so that it is told once, also by a process that starts later.

    Notice { kind "migration.notified", subject "<digest>/<event>", detail: whom }

    whom := the first 8 bytes of SHA-256 of the URL that was told: the log holds no secret

A notice is written after the other side has taken what it was sent. If the process dies between the
two, it is sent again: nobody is left untold, and who gets the same twice sees it by its subject.
"""

from __future__ import annotations

import hashlib

from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.database import Database

KIND = "migration.notified"

Told = tuple[str, bytes]  # subject, whom


def whom(url: str) -> bytes:
    """What stands in the log for one who is told."""
    return hashlib.sha256(url.encode()).digest()[:8]


def write(db: Database, told: Told) -> None:
    """Writes that somebody was told, as a commit of its own."""
    subject, detail = told

    def about(commit: log_pb2.Commit) -> None:
        commit.notice.CopyFrom(log_pb2.Notice(kind=KIND, subject=subject, detail=detail))

    db._commit(db.transaction(), about)


def read(db: Database, after: int) -> set[Told]:
    """Who was told of what by commits after this one. Read-only; reads all of them."""
    sign, found = KIND.encode(), set[Told]()
    for seq, framed in db.log.scan(after):
        if sign in framed:
            commit = record.decode(framed, seq)
            if commit.notice.kind == KIND:
                found.add((commit.notice.subject, commit.notice.detail))
    return found
