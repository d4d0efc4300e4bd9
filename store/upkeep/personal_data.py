"""Personal data: all data about one person, and what stays readable after the person was forgotten.

    person ─▶ key_id ─▶ records with changes under that key ─▶ keys of rows ─▶ every version of those rows
                     records from before a table was sealed ─▶ rows whose person has that value ─┘

    versions in clear, primary keys, texts of migrations, actor and reason     stay readable

An export reads the whole log, once for each part of it, and keeps only the keys of the person's rows and
the numbers of their commits in memory. Forgetting reads the log only as far as tables were written in
clear.
"""

from __future__ import annotations

import base64
import re
from array import array
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import msgspec
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from everlog.proto import log_pb2
from everlog.store import keys, record
from everlog.store.core import Core
from everlog.store.errors import Error, RowError, SealedError, quantity
from everlog.store.online.apply import recorded, schema_at
from everlog.store.schema.descriptors import descriptor_of, has, resolve
from everlog.store.schema.schema import Schema, TableInfo, person_part
from everlog.store.tx.load import SEALED_LOAD

WORD_MIN, WORD_MAX = 4, 1000  # length of values that are searched in texts, by their first characters
WORDS_MAX = 200
SEQS_SHOWN = 10
GIVEN = "keys.given"  # kind of the Notice that names who received keys


class Remaining(msgspec.Struct, frozen=True):
    """Data about a person that stays readable: `kind` is versions, texts, keys or commits."""

    kind: str
    text: str
    seqs: tuple[int, ...]


class Generations:
    """The generations, by space, of tables that have a person field, or got one later."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.last_open = 0  # seq up to which their rows may have been written in clear
        newest: dict[int, tuple[log_pb2.Schema, log_pb2.TableSchema]] = {}
        people, until = set[int](), dict[int, int]()
        records = [one for one in recorded(core.log, core.tables) if one.migration.HasField("schema")]
        schemas = [(one.seq, one.migration.schema) for one in records]
        if not schemas or schemas[0][0] > core.log.oldest:
            schemas.insert(0, (core.log.oldest, schema_at(core.log, core.tables, core.log.oldest)))
        for at, (_, schema) in enumerate(schemas):
            end = schemas[at + 1][0] if at + 1 < len(schemas) else core.log.written
            for table in (*schema.tables, *schema.building, *schema.retiring):
                newest[table.space], until[table.space] = (schema, table), end
                if table.HasField("person"):
                    people.add(table.id)
        made: dict[int, Schema] = {}
        self.infos: dict[int, TableInfo] = {}
        for space, (proto, table) in newest.items():
            if table.id in people:
                if id(proto) not in made:
                    made[id(proto)] = Schema(proto, core.schema.vault)
                self.infos[space] = made[id(proto)].spaces[space]
                if not table.HasField("person"):
                    self.last_open = max(self.last_open, until[space])
        # A generation without a person field uses the one that its table got later.
        named = {one.proto.id: one.proto.person for one in self.infos.values() if one.sealed}
        self._persons = {
            space: person_part(info, resolve(descriptor_of(info.model), named[info.proto.id].numbers))
            for space, info in self.infos.items()
            if has(descriptor_of(info.model), named[info.proto.id].numbers)
        }

    def person_of(self, change: log_pb2.Change) -> bytes | None:
        """Return the encoded person of a row written in clear; None: the row has none."""
        part, info = self._persons.get(change.space), self.infos[change.space]
        try:
            return part(info.salvage(change.row)) if part is not None else None
        except Error:
            return None

    def row(self, change: log_pb2.Change) -> tuple[Message | None, str]:
        """Return the row that a change wrote, and its state: open, sealed, erased, or missing (its key
        is)."""
        info = self.infos[change.space]
        try:
            if not change.key_id:
                return info.salvage(change.row), "open"
            assert info.sealing is not None
            return info.salvage(info.sealing.open(change.key, change.key_id, change.row)), "sealed"
        except SealedError as error:
            return None, "erased" if error.facts.get("erased") else "missing"


RowKey = tuple[int, bytes]  # id of a table, and a primary key


def records(core: Core, words: Iterable[bytes], until: int | None = None) -> Iterator[log_pb2.Commit]:
    """Yield the records that contain one of these words; all records if there are very many words."""
    chosen = sorted(set(words))
    if not chosen:
        return
    found = re.compile(b"|".join(map(re.escape, chosen))) if len(chosen) <= WORDS_MAX else None
    for seq, framed in core.log.scan(0, until):
        if found is None or found.search(framed):
            yield record.decode(framed, seq)


def rows_of(core: Core, all_of: Generations, key_id: bytes, person: bytes | None, until: int) -> set[RowKey]:
    """Return the rows that ever belonged to a person, by key and, before they were sealed, by person
    value."""
    found = set[RowKey]()
    for commit in records(core, [key_id] if key_id else [], until):
        for change in commit.changes:
            if change.key_id == key_id and change.space in all_of.infos:
                found.add((all_of.infos[change.space].proto.id, change.key))
    return found | _open_rows(core, all_of, person)


def _open_rows(core: Core, all_of: Generations, person: bytes | None) -> set[RowKey]:
    found = set[RowKey]()
    if person is None or not all_of.last_open:
        return found
    for seq, framed in core.log.scan(0, all_of.last_open):
        for change in record.decode(framed, seq).changes:
            info = all_of.infos.get(change.space)
            if info is None or info.sealed or change.op != log_pb2.PUT:
                continue
            if all_of.person_of(change) == person:
                found.add((info.proto.id, change.key))
    return found


class Words:
    """The texts in rows, by which they are recognized elsewhere: the longest WORDS_MAX, and WORD_MAX
    characters of each."""

    def __init__(self) -> None:
        self._found = set[str]()

    def add(self, row: Message | None) -> None:
        """Collect the texts in a row."""
        if row is not None:
            self._look(row)
        if len(self._found) > 4 * WORDS_MAX:
            self._found = self.longest()

    def longest(self) -> set[str]:
        """Return the longest texts collected."""
        return set(sorted(self._found, key=len, reverse=True)[:WORDS_MAX])

    def _look(self, message: Message) -> None:
        for field, value in message.ListFields():
            for one in value if field.is_repeated else (value,):
                if isinstance(one, Message):
                    self._look(one)
                elif isinstance(one, str) and len(one) >= WORD_MIN:
                    self._found.add(one[:WORD_MAX])


def words_of(rows: Iterable[Message | None]) -> set[str]:
    """Return the texts in rows, by which they are recognized elsewhere."""
    words = Words()
    for row in rows:
        words.add(row)
    return words.longest()


def texts(migration: log_pb2.Migration, words: Iterable[str]) -> list[str]:
    """Return the parts of a Migration record that contain one of these words: names of sources, `error`."""
    chosen = [word.encode() for word in words]
    found = [one.path for one in migration.sources if any(word in one.content for word in chosen)]
    return found + ["error"] * any(word in migration.error.encode() for word in chosen)


def export(
    core: Core, table: str, key_id: bytes, person: bytes | None, row: RowKey | None
) -> Iterator[bytes]:
    """Return the pieces of the export; see `Database.stream_person`. Raises RowError at once if there is no
    data.

    Each element of an array is on a line of its own, after its comma (`elements`).
    """
    all_of, at = Generations(core), core.head
    mine = rows_of(core, all_of, key_id, person, at) | ({row} if row is not None else set())
    # The records of current rows may be in an archive that cannot be read here.
    current = {(info.proto.id, key) for info, key, _ in live(core, key_id)} if key_id else set()
    mine |= current
    words, seqs = Words(), array("Q")
    versions = _versions(core, all_of, mine, key_id, person, at, words, seqs)
    first = next(versions, None)
    if first is None and not current:
        since = f" from record {core.log.oldest} on" if core.log.oldest > 1 else ""
        raise RowError(f"neither table {table} nor the log{since} has data about that person", table=table)

    def pieces() -> Iterator[bytes]:
        yield b"{" + b",".join(
            b"%s:%s" % (_dump(name), _dump(value))
            for name, value in (
                ("database", core.uuid.hex()),
                ("at", at),
                ("log_from", core.log.oldest),
                ("table", table),
            )
        )
        yield from _array("rows", _rows(core, mine, key_id))
        yield from _array("versions", chain([first] if first is not None else [], versions))
        yield from _array("commits", (_commit(core.log.commit(seq)) for seq in seqs))
        given = set[str]()
        yield from _array("mentions", _mentions(core, words.longest(), given, at))
        key = {"id": key_id.hex(), "state": _state(core, key_id), "given_to": sorted(given)}
        yield b',\n"key":' + _dump(key) + b"}\n"

    return pieces()


_dump = msgspec.json.encode


def _array(name: str, items: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    comma = b""
    yield b",\n" + _dump(name) + b":["
    for item in items:
        yield b"\n" + comma + _dump(item)
        comma = b","
    yield b"\n]"


def elements(pieces: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """Yield the elements of the arrays in an export, each with the name of its array."""
    section = ""
    for line in _lines(pieces):
        if section and line == b"],":
            section = ""
        elif section:
            yield section, msgspec.json.decode(line.removeprefix(b","))
        elif line.startswith(b'"') and line.endswith(b":["):
            section = msgspec.json.decode(line.removesuffix(b":["))
        elif line.startswith(b"{") and line.endswith(b"}"):  # from a server of an earlier version
            whole = msgspec.json.decode(line)
            for name in ("rows", "versions", "commits", "mentions"):
                yield from ((name, one) for one in whole[name])


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held = list[bytes]()
    for piece in pieces:
        first, *rest = piece.split(b"\n")
        held.append(first)
        for line in rest:
            yield b"".join(held)
            held = [line]
    yield b"".join(held)


def _versions(  # noqa: PLR0917  all are given at the call
    core: Core,
    all_of: Generations,
    mine: set[RowKey],
    key_id: bytes,
    person: bytes | None,
    until: int,
    words: Words,
    seqs: array[int],
) -> Iterator[dict[str, Any]]:
    """Yield every version of these rows; collects their words and commits."""
    for commit in records(core, (key for _, key in mine), until):
        for change in commit.changes:
            info = all_of.infos.get(change.space)
            if info is None or (info.proto.id, change.key) not in mine:
                continue
            if change.op == log_pb2.PUT and change.key_id not in {b"", key_id}:
                continue  # the row belonged to another person then
            found, how = all_of.row(change) if change.op == log_pb2.PUT else (None, "deleted")
            if how == "open" and person is not None and all_of.person_of(change) not in {None, person}:
                continue
            words.add(found)
            if not seqs or seqs[-1] != commit.seq:
                seqs.append(commit.seq)
            yield {**_named(info, change.key), "seq": commit.seq, "is": how, "row": _json(found)}


def _mentions(core: Core, words: set[str], given: set[str], until: int) -> Iterator[dict[str, Any]]:
    """Yield where else in the log texts of rows occur; collects who received keys."""
    for commit in records(core, [*(word.encode() for word in words), GIVEN.encode()], until):
        if commit.notice.kind == GIVEN:
            given.add(commit.notice.subject)
        where = texts(commit.migration, words) + [
            name for name, text in _texts(commit).items() if any(word in text for word in words)
        ]
        yield from ({"seq": commit.seq, "in": one} for one in where)


def _rows(core: Core, mine: set[RowKey], key_id: bytes) -> Iterator[dict[str, Any]]:
    infos = {info.proto.id: info for info in core.schema.tables.values()}
    for id, key in sorted(mine):
        info = infos.get(id)
        value = core.tables.get(info.row_prefix + key) if info is not None else None
        if info is None or value is None or keys.key_id_of(value) not in {b"", key_id}:
            continue
        expires = keys.expires_of(value)
        more = {"expires_ns": expires} if expires else {}
        try:
            row = _json(info.salvage(info.row_in(key, value)))
        except SealedError:
            row = None
        yield {**_named(info, key), "version": keys.version_of(value), "row": row, **more}


def _state(core: Core, key_id: bytes) -> str:
    vault = core.schema.vault
    if not key_id or vault is None:
        return "none"
    if vault.is_shredded(key_id):
        return "forgotten"
    return "present" if vault.has(key_id) else "missing"


def _named(info: TableInfo, key: bytes) -> dict[str, Any]:
    return {"table": info.name, "key": [_plain(part) for part in info.decode_key(key)]}


def _plain(part: Any) -> Any:
    if isinstance(part, Message):
        return _json(part)
    return base64.b64encode(part).decode() if isinstance(part, bytes) else part


def _json(row: Message | None) -> Any:
    """Return a row as ProtoJSON, or as its bytes if ProtoJSON cannot represent it."""
    if row is None:
        return None
    try:
        return json_format.MessageToDict(row, preserving_proto_field_name=True)
    except (json_format.Error, DecodeError, ValueError, TypeError, OverflowError, RecursionError):
        return {"bytes": base64.b64encode(row.SerializePartialToString()).decode()}


def _texts(commit: log_pb2.Commit) -> dict[str, str]:
    return {
        name: text
        for name, text in (
            ("actor", commit.actor),
            ("reason", commit.reason),
            ("correlation_id", commit.correlation_id),
            ("causation_id", commit.causation_id),
            ("client", commit.client),
            ("load.id", commit.load.id),
            ("load.source", commit.load.source),
        )
        if text
    }


def _commit(commit: log_pb2.Commit) -> dict[str, Any]:
    return {"seq": commit.seq, "time_ns": commit.time_ns, **_texts(commit)}


def remaining(
    core: Core, rows: set[RowKey], person: bytes | None, words: set[str], written: set[int]
) -> tuple[Remaining, ...]:
    """Return what stays readable of a forgotten person. Read-only.

    `rows`: the rows deleted with the person; `words`: the texts in them; `written`: the commits that last
    wrote them.
    """
    all_of = Generations(core)
    mine = rows | _open_rows(core, all_of, person)
    opened, deep = list[int](), list[Message | None]()
    for commit in records(core, (key for _, key in mine), all_of.last_open) if all_of.last_open else ():
        for change in commit.changes:
            info = all_of.infos.get(change.space)
            if info is None or info.sealed or change.op != log_pb2.PUT:
                continue
            if (info.proto.id, change.key) in mine and all_of.person_of(change) in {None, person}:
                opened.append(commit.seq)
                deep.append(all_of.row(change)[0])
    words = words | words_of(deep)
    migrations = recorded(core.log, core.tables) if words else []
    matches = [(one.seq, texts(one.migration, words)) for one in migrations]
    matches = [(seq, where) for seq, where in matches if where]
    found = list[Remaining]()
    if opened:
        what = f"{quantity(len(opened), 'version')} of rows from before their table was sealed"
        found.append(Remaining("versions", f"{what}: {_seqs(opened)}", tuple(opened)))
    if matches:
        parts = sorted({part for _, where in matches for part in where})
        seqs = [seq for seq, _ in matches]
        what = f"texts of migrations ({', '.join(parts)}) with words of the rows"
        found.append(Remaining("texts", f"{what}: {_seqs(seqs)}", tuple(seqs)))
    if rows:
        infos = {info.proto.id: info for info in all_of.infos.values()}
        names = [infos[id].show_key(key) for id, key in sorted(rows)[:SEQS_SHOWN]]
        more = f" and {len(rows) - len(names):,} more" if len(rows) > len(names) else ""
        found.append(Remaining("keys", f"primary keys: {', '.join(names)}{more}", ()))
        text = f"actor and reason of the commits that wrote the rows: {_seqs(sorted(written))}"
        found.append(Remaining("commits", text, tuple(sorted(written))))
    return tuple(found)


def _seqs(seqs: list[int]) -> str:
    unique = list(dict.fromkeys(seqs))
    more = f" and {len(unique) - SEQS_SHOWN:,} more" if len(unique) > SEQS_SHOWN else ""
    return (
        f"commit{'s' if len(unique) > 1 else ''} {', '.join(f'{seq}' for seq in unique[:SEQS_SHOWN])}{more}"
    )


# Messages of earlier versions contained rows: a row in braces, or the value of a unique index.
_ROW_IN_TEXT = re.compile(
    r"(fails for|FAILS for|: row) [^\n]*?\{|\bhas [^\n]+ in the unique index \w+, as row "
)


# Earlier versions recorded such files of folders with sealed tables. `plan.json` is everlog's own.
_DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".xml", ".txt", ".xlsx")


def readable(core: Core) -> Iterator[Remaining]:
    """Yield data about persons that is readable in the log without keys, of all persons. Read-only.

    Reads the log as far as tables were written in clear, and every Migration record.
    """
    all_of = Generations(core)
    tables = {info.name for info in all_of.infos.values()}
    counts = dict[str, list[int]]()
    for seq, framed in core.log.scan(0, all_of.last_open) if all_of.last_open else ():
        for change in record.decode(framed, seq).changes:
            info = all_of.infos.get(change.space)
            if info is not None and not info.sealed and change.op == log_pb2.PUT:
                counts.setdefault(info.name, []).append(seq)
    for name, seqs in sorted(counts.items()):
        text = f"{quantity(len(seqs), 'version')} of rows of {name} from before it was sealed: {_seqs(seqs)}"
        yield Remaining("versions", text, tuple(seqs))
    for one in recorded(core.log, core.tables):
        yield from _readable_texts(one.seq, one.migration, tables)
    for _, value in core.tables.notes(keys.NOTE_LOAD):
        load = log_pb2.Load.FromString(value)
        if load.table in tables and not load.id.startswith(SEALED_LOAD):
            what = f" and the name of its file, {load.source}" if load.source else ""
            text = f"a load of {load.table}: its id, {load.id}, which may be the digest of a small file{what}"
            yield Remaining("texts", text, ())
    for info in core.schema.tables.values():
        if info.key_is_personal:
            text = f"primary keys of {info.name} may identify a person: use a number or a random id"
            yield Remaining("keys", text, ())


def _readable_texts(seq: int, migration: log_pb2.Migration, tables: set[str]) -> Iterator[Remaining]:
    """Yield the parts of a Migration record that contain rows of these tables."""
    title = f"migration {migration.version}_{migration.name}, commit {seq}"
    if _ROW_IN_TEXT.search(migration.error):
        yield Remaining("texts", f"{title}: its error has a row in it", (seq,))
    for file in migration.sources:
        name = file.path.rpartition("/")[2]
        if name == "plan.json" and _ROW_IN_TEXT.search(file.content.decode(errors="replace")):
            yield Remaining("texts", f"{title}: its plan has a row in it", (seq,))
        stem = name.partition(".")[0].removeprefix("bootstrap_")
        if file.content and name.startswith("bootstrap_") and stem in tables:
            yield Remaining("texts", f"{title}: its source {name} has rows in it", (seq,))
        elif file.content and tables and name.endswith(_DATA_SUFFIXES) and not name.startswith("bootstrap_"):
            yield Remaining("texts", f"{title}: its source {name} may have rows in it", (seq,))


def live(core: Core, key_id: bytes) -> Iterator[tuple[TableInfo, bytes, bytes]]:
    """Yield the rows that are sealed with a key: table, primary key, stored value. Read-only."""
    start = keys.NOTE_OF_KEY + key_id
    for note, _ in core.tables.notes(start):
        info = core.schema.spaces.get(keys.SPACE.unpack_from(note, len(start))[0])
        key = note[len(start) + keys.SPACE.size :]
        value = core.tables.get(info.row_prefix + key) if info is not None else None
        if info is not None and value is not None:
            yield info, key, value


def key_id_in_log(core: Core, row: RowKey) -> bytes:
    """Return the key that last sealed a deleted row; empty: it was never sealed. Read-only."""
    all_of, found = Generations(core), b""
    for commit in records(core, [row[1]]):
        for change in commit.changes:
            info = all_of.infos.get(change.space)
            if info is not None and (info.proto.id, change.key) == row and change.key_id:
                found = change.key_id
    return found
