"""Bootstrap: the rows that every database needs, which a migration writes, and rows that it deletes.

    bootstrap.py                      def rows() -> Iterator[Row]: yield AIRPORTS, Airport(…)
                                      def deleted() -> Iterator[Key]: yield AIRPORTS, "JFK"
    bootstrap_<table>.csv, .jsonl     rows of that table, in order of the file names

    ≤ one record   written in the migration's own record, so they exist exactly if the migration does
    more           the rows of the largest tables are loaded before it, in records of their own, and become
                   readable with the migration's record (`loaded`): into a new table, or into another
                   generation of an existing one

A bootstrap row replaces an existing row with the same key, as of the migration's record. A deleted row need
not exist. So the result is the same whatever the database contains.

Invariants
  (1) A file is parsed from the bytes that the folder's digest covers, so one digest has one set of rows.
  (2) Rows that need more than one record are not held in memory. They are read again each time, and must be
      the same.
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from everlog.migrations import digest
from everlog.migrations.folder import ALWAYS_KEPT, Folder, recorded_files
from everlog.migrations.loader import after, fault, import_file
from everlog.migrations.migration import Key, Migration, Row
from everlog.migrations.rows import SUFFIXES, read, read_bytes, read_pieces
from everlog.migrations.spill import Spilled
from everlog.proto import log_pb2
from everlog.store.errors import MigrationError, RowError, quantity
from everlog.store.record import RECORD_BYTES_MAX
from everlog.store.schema.evolve import evolve
from everlog.store.schema.schema import Schema
from everlog.store.schema.table import Table
from everlog.store.tx import write
from everlog.store.upkeep.personal_data import words_of
from everlog.store.user_code import MisuseError, is_fault

T = TypeVar("T")
Read = Callable[[Collection[str]], Iterable[Row]]  # yields at least the rows of these tables

CODE = "bootstrap.py"
WORD_MIN, WORDS_MAX = 6, 1000  # texts of people's rows to search for in other files of the folder
_ROW_OVERHEAD = 128  # bytes in a record in addition to the row, mostly its key and its seal


KNOWN_MAX, KNOWN_BYTES_MAX = 64, 1 << 20  # of folders, and of the keys that one deletes


class Bootstrap:
    """The rows that a migration writes, in order of its files.

    `deleted` are the keys of the rows that it deletes. `withheld` are the files whose content the log does
    not keep, because they have rows of sealed tables.

    `read` yields the rows; they are held in memory if they fit into a record. Iterating raises MigrationError
    if the rows differ from the first time.
    """

    def __init__(self, read: Read = lambda _: (), title: str = "") -> None:
        self._read, self._title = read, title
        self._held: list[Row] | None = []
        self._digests: dict[str, Any] = {}
        self.deleted: list[Key] = []
        self.deleted_bytes = 0
        self.withheld = set[str]()
        self.sizes = Counter[str]()  # bytes in a record, by table name
        self.counts = Counter[str]()  # rows, by table name

    def add(self, table: Table[Any, Any], row: Message) -> None:
        """Count a row that `read` yields."""
        raw = _hash(self._digests, table, row)
        self.sizes[table.name] += len(raw) + _ROW_OVERHEAD
        self.counts[table.name] += 1
        if self._held is not None:
            self._held.append((table, row))
            if self.sizes.total() > RECORD_BYTES_MAX:
                self._held = None

    def __len__(self) -> int:
        return self.counts.total()

    def __iter__(self) -> Iterator[Row]:
        return self.of(self.counts.keys())

    def of(self, names: Collection[str]) -> Iterator[Row]:
        """Yield the rows of some tables."""
        if self._held is not None:
            yield from (one for one in self._held if one[0].name in names)
            return
        digests: dict[str, Any] = {}
        for table, row in self._read(names):
            if table.name in names:
                _hash(digests, table, row)
                yield table, row
        for name in self.counts.keys() & set(names):
            if name not in digests or digests[name].digest() != self._digests[name].digest():
                raise MigrationError(
                    f"the bootstrap rows of migration {self._title} have changed since they were checked:"
                    " a file was edited meanwhile, or `rows` of bootstrap.py yields different rows each"
                    " time; try again",
                    table=name,
                )

    def without(self, names: Collection[str]) -> Bootstrap:
        """Return the same data without the rows of some tables."""
        rest = Bootstrap(lambda those: self.of([name for name in those if name not in names]), self._title)
        for table, row in self.of(self.counts.keys() - set(names)):
            rest.add(table, row)
        rest.deleted, rest.deleted_bytes, rest.withheld = self.deleted, self.deleted_bytes, self.withheld
        return rest

    def read_by(self, read: Read) -> Bootstrap:
        """Return the same data without rows in memory: `read` yields them."""
        found = copy.copy(self)
        found._held, found._read = None, read  # noqa: SLF001  its own
        return found


def _hash(digests: dict[str, Any], table: Table[Any, Any], row: Message) -> bytes:
    raw = row.SerializeToString(deterministic=True)
    sha = digests.get(table.name)
    if sha is None:
        sha = digests[table.name] = hashlib.sha256()
    sha.update(len(raw).to_bytes(8))
    sha.update(raw)
    return raw


def bootstrap(migration: Migration, *, twice: bool = False) -> Bootstrap:
    """Return the rows of a migration, checked against their tables.

    `twice` allows two rows with the same key. Runs the folder's code; writes nothing. Raises SchemaError with
    the line of `bootstrap.py`, LoadError with line and column of a file.
    """
    rows = Bootstrap(_reader(migration), migration.title)
    schema = Schema(evolve(log_pb2.Schema(), migration.version, migration.tables))
    seen = None if twice else Spilled()
    sealed, words = set[Path](), set[str]()
    for number, (path, table, row) in enumerate(_rows(migration), 1):
        _check_row(migration, schema, seen, path, table, row, number)
        rows.add(table, row)
        if table.person is not None:
            sealed.add(path)
            if len(words) < WORDS_MAX:
                words.update(word for word in words_of([row]) if len(word) >= WORD_MIN)
    for table, key in _deleted(migration):
        rows.deleted.append((table, key))
        rows.deleted_bytes += _ROW_OVERHEAD + _key_size(schema, table, key)
        if rows.deleted_bytes > RECORD_BYTES_MAX:
            raise MigrationError(
                f"migration {migration.title} deletes over {quantity(len(rows.deleted), 'row')} in"
                " bootstrap.py, more than fit into one record; split them over several migrations",
                version=migration.version,
            )
    rows.withheld = withheld_paths(migration, sealed, words)
    if not twice and rows.deleted_bytes <= KNOWN_BYTES_MAX:
        while len(_known) >= KNOWN_MAX:
            _known.pop(next(iter(_known)), None)
        _known[migration.folder.digest] = rows.read_by(lambda _: ())
    return rows


def _reader(migration: Migration) -> Read:
    return lambda names: ((table, row) for _, table, row in _rows(migration, names))


_known: dict[bytes, Bootstrap] = {}  # of the newest folders, by digest


def known_bootstrap(migration: Migration) -> Bootstrap:
    """Return the rows of a migration as `bootstrap` does, but read them only once for each digest of its
    folder. For plans and pages: a run checks the rows again."""
    found = _known.get(migration.folder.digest)
    return bootstrap(migration) if found is None else found.read_by(_reader(migration))


def _key_size(schema: Schema, table: Table[Any, Any], key: Any) -> int:
    try:
        return len(schema.tables[table.name].encode_key(key))
    except RowError:
        return 0  # reported where it is deleted


def withheld_paths(migration: Migration, brought: Iterable[Path], words: Collection[str] = ()) -> set[str]:
    """Return the files that may have rows of sealed tables, where the files in `brought` yielded some.

    Those are also all files other than code of a folder whose tables, or those of an earlier folder, are
    sealed. If bootstrap.py yielded rows, that may be any file that it imports or reads. `words`: texts in
    those rows; other files that contain one are included as well.
    """
    root = migration.folder.path
    found = {path.relative_to(root).as_posix() for path in brought} | migration.folder.loose_files
    if CODE in found:
        opened = {f"bootstrap_{table.name}" for table in migration.tables if table.person is None}
        for file in migration.folder.sources:
            if file.path not in ALWAYS_KEPT and Path(file.path).stem not in opened:
                found.add(file.path)
    said = [word.encode() for word in words]
    left = (file for file in migration.folder.sources if file.path not in found)
    found |= {file.path for file in left if _has_one(file, root, said)}
    return found


def _has_one(file: log_pb2.SourceFile, root: Path, words: Collection[bytes]) -> bool:
    """Return whether one of these words is in a file, even across two pieces."""
    longest, before = max(map(len, words), default=1), b""
    for piece in digest.pieces(file, root) if words else ():
        looked = before + piece
        if any(word in looked for word in words):
            return True
        before = looked[len(looked) - longest + 1 :] if longest > 1 else b""
    return False


def loaded(migration: Migration, rows: Bootstrap, before: log_pb2.Schema) -> set[str]:
    """Return the tables with too many rows for the migration's record.

    They are loaded before it, in records of their own, where nobody can read them yet. `before` is the
    previous schema. Read-only. Raises MigrationError if that is impossible: in a migration that remakes rows.
    """
    following = after(before, migration)
    kept = recorded_files(migration.folder, rows.withheld, None)
    room = RECORD_BYTES_MAX // 4 * 3 - following.ByteSize() - sum(len(file.content) for file in kept)
    room -= rows.deleted_bytes
    found, left = set[str](), rows.sizes.total()
    for name, size in rows.sizes.most_common():
        if left > room:
            found.add(name)
            left -= size
    text = f"migration {migration.title} has {rows.sizes.total():,} bytes of bootstrap rows"
    if found and left > room:
        raise MigrationError(
            f"{text}, and its schema and files leave no room for rows in its record; split it over several"
            " migrations",
            version=migration.version,
        )
    if found and migration.up is not None:
        raise MigrationError(
            f"{text}, more than fit into one record, and it also remakes the rows of"
            f" {', '.join(migration.up.names)}; move the remake to a migration of its own",
            version=migration.version,
        )
    return found


def _check_row(  # noqa: PLR0917  all are named at the call
    migration: Migration,
    schema: Schema,
    seen: Spilled | None,
    path: Path,
    table: Table[Any, Any],
    row: Message,
    number: int,
) -> None:
    """Check that a row can be written, before anything is written. `number`: its position in the
    migration, from 1. Raises SchemaError with the file.
    """
    try:
        one = write.put(schema.bind(table), row)
    except RowError as error:
        shown = " ".join(str(row).split())
        raise migration.folder.error(
            f"row {number:,} of {table.name}: {error}", file=path, private=f"{{{shown:.200}}} {error.private}"
        ) from error
    if seen is None:
        return
    is_there, first = seen.find(one.full)
    if is_there:
        where = (first or b"").decode()
        raise migration.folder.error(
            f"row {one.info.name_key(one.key)} occurs twice, first in {where}; remove one",
            file=path,
            private=one.info.show_key(one.key),
        )
    seen[one.full] = path.name.encode()


def bootstrap_files(folder: Folder) -> list[str]:
    """Return the names of the files that have bootstrap rows, in the order in which they are read. Read-only;
    runs none of the folder's code."""
    names = {file.path.partition("/")[0] for file in folder.sources}
    data = sorted(name for name in names if name.startswith("bootstrap_"))
    return [*([CODE] if (folder.path / CODE).exists() else ()), *data]


def _rows(
    migration: Migration, wanted: Collection[str] | None = None
) -> Iterator[tuple[Path, Table[Any, Any], Message]]:
    """Yield the rows of all files; rows of tables that are not `wanted` may be omitted."""
    folder = migration.folder
    digested = {file.path: file for file in folder.sources}
    for file in bootstrap_files(folder):
        path = folder.path / file
        if file == CODE:
            yield from ((path, table, row) for table, row in _of_code(migration, path))
            continue
        if path.suffix not in SUFFIXES:
            raise folder.error(f"expected {path.name} to end in {' or '.join(SUFFIXES)}", file=path)
        name = path.stem.removeprefix("bootstrap_")
        table = migration.table(name)
        if table is None:
            raise folder.error(
                f"the migration declares no table {name!r}; it declares: {_names(migration)}", file=path
            )
        if path.name not in digested:
            raise folder.error(f"expected {path.name} to be a file", file=path)
        if wanted is not None and name not in wanted:
            continue
        for row in _of_file(folder, path, digested[path.name], table.model):
            yield path, table, row


def _of_file(folder: Folder, path: Path, file: log_pb2.SourceFile, model: type[Message]) -> Iterator[Message]:
    if not digest.is_large(file):
        yield from read_bytes(path, file.content, model)
    elif path.suffix == ".parquet":  # its reader seeks
        yield from read(path, model)
        for _ in digest.pieces(file, folder.path):
            pass  # raises if the file has changed
    else:
        yield from read_pieces(path, digest.pieces(file, folder.path), model)


def _of_code(migration: Migration, path: Path) -> Iterator[Row]:
    module = import_file(migration.folder, "bootstrap")
    made = getattr(module, "rows", None)
    if not callable(made) and not (made is None and callable(getattr(module, "deleted", None))):
        raise migration.folder.error("expected a function `rows() -> Iterator[Row]`", file=path)
    if made is not None:
        yield from _called(migration, path, made, _checked)


def _deleted(migration: Migration) -> Iterator[Key]:
    path = migration.folder.path / CODE
    if path.exists():
        made = getattr(import_file(migration.folder, "bootstrap"), "deleted", None)
        if made is not None:
            yield from _called(migration, path, made, _checked_key)


def _called(
    migration: Migration,
    path: Path,
    made: Callable[[], Iterable[object]],
    check: Callable[[Migration, object], T],
) -> Iterator[T]:
    try:
        for one in made():
            yield check(migration, one)
    except BaseException as error:
        if not is_fault(error):
            raise
        raise fault(migration.folder, path, error, of_rows=True) from None


def _checked(migration: Migration, row: object) -> Row:
    match row:
        case (Table() as table, message) if isinstance(message, table.model):
            if table is migration.table(table.name):
                return table, message
            raise MisuseError(
                f"this migration does not declare table {table.name}; it declares: {_names(migration)}"
            )
        case (Table() as table, other):
            raise MisuseError(
                f"expected a {table.model.DESCRIPTOR.full_name} for {table.name}, found {_name(other)}"
            )
        case _:
            raise MisuseError(f"expected `rows` to yield a table and a row of it, found {_name(row)}")


def _checked_key(migration: Migration, key: object) -> Key:
    match key:
        case (Table() as table, found) if not isinstance(found, Message):
            if table is migration.table(table.name):
                return table, found
            raise MisuseError(
                f"this migration does not declare table {table.name}; it declares: {_names(migration)}"
            )
        case _:
            raise MisuseError(f"expected `deleted` to yield a table and the key of a row, found {_name(key)}")


def _name(found: object) -> str:
    """Return the name of a value's type, for messages."""
    return getattr(getattr(found, "DESCRIPTOR", None), "full_name", type(found).__name__)


def _names(migration: Migration) -> str:
    return ", ".join(table.name for table in migration.tables) or "none"
