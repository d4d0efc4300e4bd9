"""Row history: every version of one row, with who made it, when and why.

    the row now ─▶ record 812 ─ prior ─▶ record 790 ─ prior ─▶ record 2 ─ prior 0: was there one before?
                                                                            └▶ history/version_index.py knows

The newest versions are found from the row itself, along the links in the log. The version index catches
up only when the links end: a row may have been deleted before, and no link leads there.

    generations    space 9, from record 640 on ◀── rewritten by a migration ── space 3, up to 639
                                  one version: the row that `up` returned

Two rows of one generation are compared field by field in the model in the log, including fields that an
older program's model lacks. Rows of two generations, between which a migration rewrote them, are
compared by field numbers.

Invariants
  (1) a commit is one version of a row, even if it wrote the row in two generations: the version in the
      generation in force at that time;
  (2) the newest version is the current row, and `Database.at(seq)` agrees with each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from everlog.proto import log_pb2
from everlog.store import keys, record
from everlog.store.errors import SealedError
from everlog.store.history.schemas import Generation, TableLineage
from everlog.store.history.version_index import Place, Versions, change_at, row_of
from everlog.store.log import Log
from everlog.store.record import changes
from everlog.store.schema import arguments
from everlog.store.schema.admission import read
from everlog.store.schema.descriptors import version_of
from everlog.store.schema.schema import TableInfo
from everlog.store.tables.tables import Tables
from everlog.store.tx.transaction import proof_name


class Image:
    """A row in one of its versions.

    `raw` is None if it was deleted, is `erased`, or is `sealed` with a key that is not available. Of a row
    that does not parse it has the readable fields.
    """

    __slots__ = ("_values", "erased", "info", "own", "raw", "row", "sealed")

    def __init__(
        self,
        info: TableInfo,
        model: type[Message],
        raw: bytes | None,
        *,
        erased: bool = False,
        sealed: bool = False,
    ) -> None:
        self.info, self.raw, self.erased, self.sealed = info, raw, erased, sealed
        # As `model`, and as the model in the log, which is used for comparisons.
        self.row: Any = None if raw is None else read(model, raw)
        self.own: Any = self.row if model is info.model or raw is None else read(info.model, raw)
        self._values: Sequence[tuple[Any, Any]] | None = None

    @property
    def values(self) -> Sequence[tuple[Any, Any]]:
        """The fields that are set. Listed once, because each version is compared with two others."""
        if self._values is None:
            self._values = () if self.own is None else self.own.ListFields()
        return self._values

    @property
    def is_there(self) -> bool:
        """Whether the row exists, even if it is erased or sealed."""
        return self.raw is not None or self.erased or self.sealed


def image_of(info: TableInfo, model: type[Message], change: log_pb2.Change) -> Image:
    """Return the row in a change: erased if its key was forgotten, sealed if its key is not available.

    A client, which has no keys, receives rows unsealed, and an erased row as an empty one.
    """
    if change.op == log_pb2.DELETE:
        return Image(info, model, None)
    if not change.key_id:
        return Image(info, model, change.row)
    if info.sealing is None:
        return Image(info, model, None, erased=not change.row, sealed=bool(change.row))
    try:
        return Image(info, model, info.sealing.open(change.key, change.key_id, change.row))
    except SealedError as error:
        return Image(info, model, None, erased=error.erased, sealed=not error.erased)


def changed(before: Image | None, after: Image) -> tuple[str, ...]:
    """Return the names of the fields that differ; of a new row, all fields that are set; of a deleted row,
    none."""
    if after.raw is None or (before is not None and before.raw == after.raw and before.info is after.info):
        return ()
    if before is None or before.raw is None:
        return tuple(field.name for field, _ in after.values)
    same = before.own.DESCRIPTOR is after.own.DESCRIPTOR
    old, new = before.values, after.values
    if same and [field for field, _ in old] == [field for field, _ in new]:
        return tuple(field.name for (field, was), (_, now) in zip(old, new, strict=True) if was != now)
    first, second = (
        {field.number: value if same else _bytes(value) for field, value in one} for one in (old, new)
    )
    names = {field.number: field.name for field, _ in (*old, *new)}
    numbers = sorted(first.keys() | second.keys())
    return tuple(names[number] for number in numbers if first.get(number) != second.get(number))


def _bytes(value: Any) -> Any:
    if isinstance(value, Message):
        return value.SerializePartialToString(deterministic=True)
    if isinstance(value, (str, bytes, int, float)):
        return value
    if hasattr(value, "items"):
        return sorted((key, _bytes(one)) for key, one in value.items())
    return [_bytes(one) for one in value]


AT_ONCE_FIRST, AT_ONCE_MAX = 8, 64  # versions whose records are read together
KEPT_BYTES = 64 << 10  # larger records are read again instead of being kept

M = TypeVar("M", bound=Message)


class Version(NamedTuple, Generic[M]):
    """One version of a row, and the commit that made it.

    `op` is "put" or "delete". `row`, in the model of its time, is None if it was deleted; if it is `erased`
    (its person was forgotten); or if it is `sealed` with a key that is not available. `fields` are the
    names of the fields that differ from the previous version. `migration` is the version of the migration
    that made it, or 0. `proof`: as in `Entry`.
    """

    seq: int
    time_ns: int
    actor: str
    reason: str
    correlation_id: str
    causation_id: str
    client: str
    op: str
    row: M | None
    fields: tuple[str, ...]
    migration: int
    proof: str = "claimed"
    erased: bool = False
    sealed: bool = False


class _Located(NamedTuple):
    """The position of a version, and the generation of the table that it belongs to.

    A place with size 0: the row was removed with its table, or a migration did not carry it over.
    """

    place: Place
    info: TableInfo


class Found(NamedTuple):
    """A version, the table in the generation that it is of, and the bytes of its row (None: it has none)."""

    version: Version[Any]
    info: TableInfo
    raw: bytes | None


_Read = tuple[log_pb2.Commit, Image]


class History:
    """The versions of one row, up to now."""

    def __init__(  # noqa: PLR0917  the sources, then the row
        self,
        log: Log,
        tables: Tables,
        versions: Versions,
        table: TableLineage,
        key: bytes,
        model: type[Message] | None = None,
    ) -> None:
        """`model`: the model of the rows in its generation."""
        self._log, self._tables, self._versions = log, tables, versions
        self._upto, self._key = table.upto, key
        of_key = list(table.info.proto.key)
        self.generations = [one for one in table.generations if list(one.info.proto.key) == of_key]
        self._models = models_of(model, [one.info for one in self.generations])
        self._read_before: dict[int, bytes] = {}  # small records that were read while following links

    def versions(self, *, newest_first: bool, limit: int | None) -> Iterator[Found]:
        """Yield each version, and its table in the generation that it belongs to.

        Read-only, except that the version index catches up where the links end.
        """
        limit = arguments.limit(limit, "versions")
        if limit is not None and limit > self._upto:
            limit = None  # a row has no more versions than there are records
        found = self.places()
        made = found if newest_first else iter(list(found)[::-1])
        images = self._images(made, None if limit is None else limit + 1)
        return islice(_newest(images) if newest_first else _oldest(images), limit)

    def places(self) -> Iterator[_Located]:
        """Yield where the versions lie, newest first."""
        return self._of(0, self._upto)

    def _of(self, at: int, upto: int) -> Iterator[_Located]:
        """Yield the versions of a generation and of earlier ones."""
        here = self.generations[at]
        row = row_of(here.info.space, self._key)
        if here.end < upto and self._is_there(here, here.end):
            yield self._gone(here.info, here.end + 1)
        for place in self._places(here, row, min(here.end, upto)):
            yield _Located(place, here.info)
        before = (_Located(place, here.info) for place in self._rewritten(row, here.start - 1))
        if at + 1 == len(self.generations):
            yield from before
            return
        self._versions.catch_up(here.start)
        older = self.generations[at + 1]
        if older.end == here.start - 1:
            first = self._versions.find(row, here.start)
            if first is None and self._is_there(older, older.end):
                yield self._gone(here.info, here.start)
        yield from merge(self._of(at + 1, here.start - 1), before, key=_seq, reverse=True)

    def _places(self, here: Generation, row: bytes, end: int) -> Iterator[Place]:
        versions = self._versions
        if versions.applied < end == self._upto:
            for place in self._linked(here.info, end):
                if place.seq < here.start:
                    return
                yield place
                end = place.seq - 1
        if end >= here.start:
            self._versions.catch_up(end)
        yield from versions.of(row, start=here.start, end=end)

    def _linked(self, info: TableInfo, upto: int) -> Iterator[Place]:
        """Follow `prior` from the current row."""
        value = self._tables.get(info.row_prefix + self._key)
        seq = keys.seq_of(value) if value is not None else 0
        while seq:
            framed, mine = self._log.get(seq), (info.space, self._key)
            place = next(
                (Place(seq, op, *at) for space, op, key, *at in changes(framed, seq) if (space, key) == mine),
                None,
            )
            if place is None:
                return
            if seq <= upto:
                if len(framed) <= KEPT_BYTES:
                    self._read_before[seq] = framed
                yield place
            seq = log_pb2.Change.FromString(framed[place.offset : place.offset + place.size]).prior

    def _rewritten(self, row: bytes, upto: int) -> Iterator[Place]:
        """Yield the rows that migrations wrote before their generation was in force.

        Rows written by others in that time are versions of the previous generation.
        """
        self._versions.catch_up(upto)
        for place in self._versions.of(row, start=1, end=upto):
            if self._log.commit(place.seq).HasField("migration"):
                yield place

    def _is_there(self, generation: Generation, seq: int) -> bool:
        self._versions.catch_up(seq)
        found = self._versions.find(row_of(generation.info.space, self._key), seq)
        return found is not None and found.op != log_pb2.DELETE

    def _gone(self, info: TableInfo, seq: int) -> _Located:
        return _Located(Place(seq, log_pb2.DELETE, 0, 0), info)

    def _images(self, made: Iterator[_Located], most: int | None) -> Iterator[tuple[_Located, _Read]]:
        """Read the versions. The records of several are read together."""
        size = AT_ONCE_FIRST
        while chunk := list(islice(made, size if most is None else min(size, most))):
            known, self._read_before = self._read_before, {}
            missing = [one.place.seq for one in chunk if one.place.seq not in known]
            records = self._log.get_each(missing)
            for one in chunk:
                framed = known.get(one.place.seq)
                yield one, self._read(one, next(records) if framed is None else framed)
            size = min(size * 4, AT_ONCE_MAX)

    def _read(self, made: _Located, framed: bytes) -> _Read:
        place, info = made
        commit = record.decode(framed, place.seq)
        model = self._models[info.space]
        if not place.size:
            return commit, Image(info, model, None)
        change = change_at(framed, row_of(info.space, self._key), place)
        return commit, image_of(info, model, change)


def _newest(images: Iterator[tuple[_Located, _Read]]) -> Iterator[Found]:
    """Yield each version once the previous one is known."""
    last: tuple[_Located, _Read] | None = None
    for one in images:
        if last is not None:
            yield _found(*last, one[1][1])
        last = one
    if last is not None:
        yield _found(*last, None)


def _oldest(images: Iterator[tuple[_Located, _Read]]) -> Iterator[Found]:
    before: Image | None = None
    for made, found in images:
        yield _found(made, found, before)
        before = found[1]


def _found(made: _Located, found: _Read, before: Image | None) -> Found:
    commit, image = found
    version: Version[Any] = Version(
        seq=commit.seq,
        time_ns=commit.time_ns,
        actor=commit.actor,
        reason=commit.reason,
        correlation_id=commit.correlation_id,
        causation_id=commit.causation_id,
        client=commit.client,
        op="delete" if made.place.op == log_pb2.DELETE else "put",
        row=image.row,
        fields=changed(before, image),
        migration=commit.migration.version if commit.HasField("migration") else 0,
        erased=image.erased,
        sealed=image.sealed,
        proof=proof_name(commit.proof),
    )
    return Found(version, made.info, image.raw)


def models_of(model: type[Message] | None, generations: list[TableInfo]) -> dict[int, type[Message]]:
    """Return by space the model of a constant for rows of its generation, else the model in the log.

    The generations come newest first. Raises SchemaError if the model and the table do not fit.
    """
    models = {info.space: info.model for info in generations}
    if model is not None:
        version = version_of(model)
        mine = next((info for info in generations if not version or info.proto.since <= version), None)
        if mine is not None:
            models[mine.space] = mine.bind(model).model
    return models


def _seq(made: _Located) -> int:
    return made.place.seq
