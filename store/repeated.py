"""Repeated: whether a commit that comes again with its id is the one that is in the log.

    asked for again ─▶ key, op and row of each write ─┬─▶ the same: it is answered with the first
    in the log      ─▶ key, op and row of each change ┘    else: the id was used for something else

While a migration rewrites a table, each write of one generation is a write of the other, too. Between
the first time and the next such a generation may have come or gone; what is in that alone follows from
the rest, and is not compared.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from everlog.proto import log_pb2
from everlog.store import keys
from everlog.store.errors import PreconditionError, SealedError
from everlog.store.schema import Schema

Content = dict[bytes, tuple[log_pb2.Op.ValueType, bytes]]  # op and row, by the key with its prefix

_NOTHING = (log_pb2.DELETE, b"")  # deleting what is not there is not in the log


def check_id(commit_id: bytes) -> None:
    """Raise PreconditionError for what is no UUIDv7 (RFC 9562, section 5.7)."""
    if len(commit_id) != 16 or commit_id[6] >> 4 != 7:
        raise PreconditionError(f"expected a commit_id to be a UUIDv7 of 16 bytes, found {commit_id!r}")


def content_of(schema: Schema, commit: log_pb2.Commit, asked: Content) -> Content:
    """What a commit of the log did. A row that nobody can read any more is taken for the one that is
    asked for: only one and the same commit has its id."""
    done: Content = {}
    for one in commit.changes:
        full, row = keys.prefix(one.space) + one.key, one.row
        info = schema.spaces.get(one.space)
        if one.key_id and info is not None and info.sealing is not None:
            try:
                row = info.sealing.open(one.key, one.key_id, row)
            except SealedError:
                row = asked.get(full, _NOTHING)[1]
        done[full] = (one.op, row)
    return done


def same(schema: Schema, done: Content, asked: Content) -> bool:
    """Whether what was done, and is in the log, is what is asked for again under this schema."""
    there, wanted = _spaces(done), _spaces(asked)
    gone = {space for space in there - wanted if space not in schema.spaces}
    twins = {space: schema.spaces[space].twin for space in wanted - there if space in schema.spaces}
    come = {space for space, twin in twins.items() if twin is not None and twin.space in there}
    left = {full: what for full, what in done.items() if _space(full) not in gone}
    asked = {full: what for full, what in asked.items() if _space(full) not in come}

    def spared(full: bytes) -> bool:
        """Whether the other generation has it, which bootstrap data was loaded over."""
        info = schema.spaces.get(_space(full))
        others = gone | ({info.twin.space} if info is not None and info.twin is not None else set())
        tail = full[keys.SPACE.size :]
        return any(done.get(keys.SPACE.pack(space) + tail) == asked[full] for space in others)

    if gone and gone == there:  # nothing else is left to compare
        return all(spared(full) for full in asked)
    return left.keys() <= asked.keys() and all(
        left.get(full, _NOTHING) == what or spared(full) for full, what in asked.items()
    )


def _spaces(fulls: Iterable[bytes]) -> set[int]:
    return {_space(full) for full in fulls}


def _space(full: bytes) -> int:
    """The space that a key with its prefix is in."""
    space: int = keys.SPACE.unpack_from(full)[0]
    return space


def other_content(commit_id: bytes, seq: int | None) -> PreconditionError:
    """For a commit_id that comes again with something else."""
    who = f"commit {seq}" if seq else "another transaction at the same moment"
    return PreconditionError(
        f"commit_id {uuid.UUID(bytes=commit_id)} was used by {who} with other content;"
        " take a new id for a new commit",
        commit_id=commit_id,
        seq=seq,
    )
