"""Lint data: conflicts of migrations with existing rows, and with rows that they bring.

    database (if any) ─▶ Rows ─▶ migration: up? bootstrap ─▶ Rows ─▶ … each time: unique indexes

Without a database, the rows are those of the bootstrap data of all folders. Nothing is written: rows of a
migration overlay those of the database, in memory or in a temporary file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from everlog.migrations.bootstrap import bootstrap, loaded
from everlog.migrations.dry_run import Make, maker
from everlog.migrations.lint.tables import Step, is_new, lint_literals
from everlog.migrations.loader import fault
from everlog.migrations.migration import Migration
from everlog.migrations.spill import Spill, Spilled
from everlog.store.errors import Error
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema.reflect import table_of
from everlog.store.schema.schema import Schema, TableInfo
from everlog.store.schema.table import Index, Table
from everlog.store.tx.validator import duplicate
from everlog.store.upkeep.status import Status

_NAMED = 3  # rows named in a finding
_TELL_EVERY = 20_000


class Counted(Protocol):
    """The part of `db.admin` that lint reads."""

    def status(self) -> Status: ...


class Readable(Protocol):
    """The part of a database, embedded or on a server, that lint reads."""

    @property
    def schema(self) -> Schema: ...

    @property
    def admin(self) -> Counted: ...

    def scan(self, what: Any, /) -> Iterable[Any]: ...


class _Row(NamedTuple):
    """A row, and whether the current migration brings it."""

    key: bytes
    row: Any
    brought: bool


class _Brought(NamedTuple):
    """What a migration did to a row; `row` is None if it deleted it."""

    number: int
    row: bytes | None


class _FailedError(Exception):
    """`up` rejects a row."""

    def __init__(self, table: str, where: str, error: Error) -> None:
        super().__init__(" ".join(str(error).split()))
        self.table = table
        self.where = where
        self.raised = error.__context__  # the exception of `up` itself


_Scan = Callable[[], Iterable[tuple[bytes, bytes]]]


class _Rows:
    """The rows of one table: those of the database, changed by `steps`, under those of `bring`."""

    def __init__(self, spill: Spill, scan: _Scan = tuple) -> None:
        self.scan = scan
        self.steps: list[Callable[[bytes, bytes], bytes]] = []
        self._spill = spill
        # Of each key the number of the migration:u32be, then 1 and the row, or 0: it is deleted.
        self._brought = Spilled(spill)

    def bring(self, key: bytes, raw: bytes | None, number: int) -> _Brought | None:
        """Add a row that migration `number` brings, or deletes. Return what an earlier one did, or itself."""
        _, was = self._brought.find(key)
        self._brought[key] = number.to_bytes(4) + (b"\0" if raw is None else b"\1" + raw)
        return None if was is None else _Brought(int.from_bytes(was[:4]), was[5:] if was[4] else None)

    def transform(self, table: str, where: str, make: Make) -> None:
        def step(key: bytes, row: bytes) -> bytes:
            try:
                return make(key, row).row
            except Error as error:
                raise _FailedError(table, where, error) from error

        changed = Spilled(self._spill)
        for key, value in self._brought.items():
            assert value is not None
            changed[key] = value[:5] + step(key, value[5:]) if value[4] else value
        self._brought = changed
        self.steps.append(step)

    def all(self, info: TableInfo, number: int) -> Iterator[_Row]:
        """Yield every row in the model of `info`; those of migration `number` are `brought`. Raises
        _FailedError.
        """
        for key, scanned in self.scan():
            raw = scanned
            for step in self.steps:
                raw = step(key, raw)
            if key not in self._brought:
                yield _Row(key, info.salvage(raw), brought=False)
        for key, value in self._brought.items():
            assert value is not None
            if value[4]:
                yield _Row(key, info.salvage(value[5:]), brought=int.from_bytes(value[:4]) == number)


class _Named:
    """The first of some rows in words, and their number."""

    def __init__(self) -> None:
        self.count = 0
        self._texts: list[str] = []

    def add(self, text: str) -> None:
        self.count += 1
        if self.count <= _NAMED:
            self._texts.append(text)

    def __str__(self) -> str:
        more = f" … {self.count - _NAMED:,} more" if self.count > _NAMED else ""
        return f"{'; '.join(self._texts)}{more}"


def _is_lost(info: TableInfo, was: bytes | None, now: bytes | None) -> bool:
    """Return whether a row contradicts an earlier one: values that the earlier lacks are no contradiction."""
    if was is None or now is None or was == now:
        return was != now
    values = {field.number: value for field, value in info.salvage(now).ListFields()}
    return any(values.get(field.number) != value for field, value in info.salvage(was).ListFields())


class Data:
    """The rows as they would be after each migration in turn."""

    def __init__(self, db: Readable | None, progress: OnProgress | None) -> None:
        self._db = db
        self._progress = progress
        self._rows: dict[str, _Rows] = {}
        self._spill = Spill()
        self._number = 0  # of the current migration
        self._titles: list[str] = []  # of migrations 1, 2, …
        for info in db.schema.tables.values() if db is not None else ():
            self._rows[info.name] = _Rows(self._spill, self._scan_of(info))

    def _of(self, table: str) -> _Rows:
        return self._rows.setdefault(table, _Rows(self._spill))

    def lint(self, step: Step, before: Schema, schema: Schema) -> None:
        """Check one pending migration, which makes `schema` of `before`."""
        migration = step.migration
        self._number += 1
        self._titles.append(migration.title)
        was = {new: old for old, new in migration.rename.items()}
        remade = migration.up.names if migration.up is not None else ()  # their new rows are not known
        for name in (*migration.drop, *remade):
            self._rows.pop(name, None)
        self._rows = {migration.rename.get(name, name): rows for name, rows in self._rows.items()}
        try:
            for name, transform in migration.transforms.items():
                old = before.tables.get(was.get(name, name))
                if (
                    old is None
                    or old.proto.model != transform.old.DESCRIPTOR.full_name
                    or migration.table(name) is not transform.table
                ):
                    return  # loading reports the error
                make = maker(old, schema.tables[name], transform)
                self._of(name).transform(name, transform.where, make)
            brought = self._bring(step, before, schema)
            for name in migration.transforms:
                for _ in self._rows[name].all(schema.tables[name], self._number):
                    pass  # runs `up` on every row
            for table in migration.tables:
                self._uniques(step, schema, table, changed=table.name in brought)
        except _FailedError as error:
            file, where = migration.folder.path / "__init__.py", error.where
            if isinstance(error.raised, Exception):  # at the line in `up`, if known
                inside = fault(migration.folder, file, error.raised).facts["where"]
                where = where if inside == f"{file}:1" else inside
            step.found.add("data/transform", where, str(error))
            self._rows.pop(error.table, None)  # its new rows are not known

    def _scan_of(self, info: TableInfo) -> _Scan:
        def scan() -> Iterable[tuple[bytes, bytes]]:
            assert self._db is not None
            for done, row in enumerate(self._db.scan(table_of(info)), 1):
                if self._progress is not None and done % _TELL_EVERY == 0:
                    self._progress(Progress(f"lint {info.name}", done))
                yield info.own.key_of(row), row.SerializePartialToString()

        return scan

    def _bring(self, step: Step, before: Schema, schema: Schema) -> set[str]:
        """Add the bootstrap rows of a migration. Return their tables."""
        brought, number = set[str](), self._number
        folder, twice, replaced = step.migration.folder, _Named(), dict[int, _Named]()

        def bring(info: TableInfo, key: bytes, raw: bytes | None) -> None:
            was = self._of(info.name).bring(key, raw, number)
            if was is None:
                return
            if was.number == number:
                twice.add(f"{info.name_key(key)}{', which is also deleted' if raw is None else ''}")
            elif _is_lost(info, was.row, raw):
                did = " (deleted)" if was.row is None or raw is None else ""
                replaced.setdefault(was.number, _Named()).add(f"{info.name_key(key)}{did}")

        try:
            rows = bootstrap(step.migration, twice=True)
            loaded(step.migration, rows, before.proto)
            for table, row in rows:
                info = schema.tables[table.name]
                raw = row.SerializeToString()
                key = info.own.key_of(info.model.FromString(raw))
                bring(info, key, raw)
                brought.add(table.name)
            for path in sorted(rows.withheld):
                step.found.add(
                    "person/bootstrap",
                    f"{folder.path / path}:1",
                    f"{path} may have rows of a sealed table: the log keeps a digest of it instead of its"
                    " content, but the folder and each copy of it have them in clear, and forgetting does"
                    " not reach them",
                )
            if rows.withheld and not folder.salt:
                step.found.add(
                    "person/unsalted",
                    f"{folder.model}:1",
                    f"the digest of {folder.title} has no salt: in the log it can confirm guesses about"
                    f" {', '.join(sorted(rows.withheld))}",
                )
            lint_literals(step, rows.withheld)
            for table, deleted in rows.deleted:
                info = schema.tables[table.name]
                bring(info, info.encode_key(deleted), None)
        except Error as error:
            where = error.facts.get("where") or _file_of(error) or _bootstrap_file(step.migration)
            text = str(error).removeprefix(f"{where}: ")
            step.found.add("load/bootstrap", where, f"bootstrap data of {folder.title}: {text}")
        if twice.count:
            text = (
                f"bootstrap data of {folder.title} has two rows with the same key, and only the last would"
                " be kept"
            )
            where = _bootstrap_file(step.migration)
            step.found.add("data/bootstrap-twice", where, f"{text}: {twice}")
        for earlier, rows_of in sorted(replaced.items()):
            text = (
                f"bootstrap data of {folder.title} differs from that of {self._titles[earlier - 1]} for the"
                f" same {'key' if rows_of.count == 1 else 'keys'}, and replaces it: {rows_of}"
            )
            step.found.add("data/bootstrap-replaced", step.migration.where, text)
        return brought

    def _uniques(self, step: Step, schema: Schema, table: Table[Any, Any], *, changed: bool) -> None:
        info, rows = schema.tables[table.name], self._rows.get(table.name)
        before = {step.migration.rename.get(name, name): old for name, old in step.before.items()}
        old = before.get(table.name) if table.name not in step.migration.drop else None
        changed = changed or table.name in step.migration.transforms
        for index in table.indexes.values():
            if rows is not None and index.unique and (changed or is_new(index, old)):
                self._unique(step, info, index, rows)

    def _unique(self, step: Step, info: TableInfo, constant: Index[Any], rows: _Rows) -> None:
        at, index = list(info.indexes).index(constant.name), info.indexes[constant.name]
        taken = Spilled(self._spill)  # by values: whether the row was brought, and its key
        looked, by_bootstrap, named = 0, False, _Named()
        for key, row, brought in rows.all(info, self._number):
            looked += 1
            values = info.own.entry_ofs[at](row)
            if index.nullable and index.has_null(values[len(index.prefix) :]):
                continue
            is_there, found = taken.find(values)
            if not is_there or found is None:
                taken[values] = bytes([brought]) + key
                continue
            holder, held = found[1:], found[0] == 1
            if holder == key:
                continue
            by_bootstrap |= brought or held
            named.add(str(duplicate(index, values, holder, key)))
        if count := named.count:
            text = (
                f"unique index {index.name} of {info.name}: {count:,} of {looked:,} rows have the values"
                f" of another row: {named}"
            )
            step.found.add(
                "data/bootstrap-not-unique" if by_bootstrap else "data/not-unique", constant.where, text
            )


def lint_unchecked(step: Step) -> None:
    """Report new unique indexes that are not compared with rows, because there is no database."""
    migration = step.migration
    before = {migration.rename.get(name, name): old for name, old in step.before.items()}
    for table in migration.tables:
        old = before.get(table.name) if table.name not in migration.drop else None
        for name, index in table.indexes.items():
            if index.unique and old is not None and is_new(index, old):
                step.found.add(
                    "data/unique-unchecked",
                    index.where,
                    f"unique index {name} of {table.name} is new, and existing rows were not checked,"
                    " because no database was given",
                )


def _file_of(error: Error) -> str:
    """Return file and line of a LoadError."""
    file = error.facts.get("file")
    return f"{file}:{error.facts.get('line') or 1}" if file else ""


def _bootstrap_file(migration: Migration) -> str:
    files = sorted(migration.folder.path.glob("bootstrap*"))
    return f"{files[0]}:1" if files else migration.where
