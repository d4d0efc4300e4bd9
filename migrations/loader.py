"""Loader: import a package of migrations and check it.

    folders ─▶ model built? ─▶ import ─▶ MIGRATION ─▶ constants match the model? ─▶ follows the previous?

The whole package is checked before any of it is used, so an error in the last folder stops a run before the
first has changed anything. Every error names a file and a line.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from everlog.migrations.build import check_built, check_sums, read_sums, rules
from everlog.migrations.compatible import check_compatible, undeclared
from everlog.migrations.folder import FOLDER_NAME, SOURCE, Folder, Root, Source, find, folders
from everlog.migrations.migration import Migration, Remake, Transform
from everlog.proto import log_pb2
from everlog.store.errors import Error, SchemaError
from everlog.store.schema.evolve import evolve
from everlog.store.schema.table import Field, Table
from everlog.store.user_code import is_interrupt, private, words


def load(source: Source = SOURCE) -> list[Migration]:
    """Return the migrations of a package (`flights.migrations`) or directory, oldest first, checked.

    Imports their code. Writes nothing, but may append the directory that contains the package to `sys.path`.
    Raises SchemaError, with file and line, for anything that is inconsistent.
    """
    root = find(source)
    found = folders(root)
    written = read_sums(root, found)
    for folder in found:
        check_built(folder)
    check_sums(root, found, written)
    make_importable(root)
    migrations = [load_folder(folder) for folder in found]
    _check_chain(migrations)
    return migrations


def import_file(folder: Folder, name: str = "") -> ModuleType:
    """Import a folder, or a module in it. Raises SchemaError with the line that fails."""
    importlib.invalidate_caches()
    _FINDER.add(folder.package.rpartition(".")[0] or folder.package)
    package = f"{folder.package}.{name}" if name else folder.package
    file = folder.path / f"{name or '__init__'}.py"
    try:
        module = importlib.import_module(package)
    except Error:
        raise
    except BaseException as error:
        if is_interrupt(error):
            raise
        if isinstance(error, ModuleNotFoundError) and f"{package}.".startswith(f"{error.name}."):
            raise _elsewhere(folder, file) from error
        raise fault(folder, file, error) from error
    if module.__file__ is None or not _is_same(Path(module.__file__), file):
        raise folder.error(
            f"{package} is imported from {module.__file__}, not from this folder: two packages have the"
            " same name; rename one, or take the other off PYTHONPATH",
            file=file,
        )
    return module


class _FromSource(SourceFileLoader):
    """Compiles the file that is there. Cached bytecode may be of another content: Python compares only times
    in seconds and sizes, and no digest covers it."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


class _Finder:
    """Finds the modules of packages of migrations, as Python does, and loads them from their sources."""

    def __init__(self) -> None:
        self._packages: set[str] = set()

    def add(self, package: str) -> None:
        """Find the modules of this package from now on."""
        self._packages.add(package)
        if self not in sys.meta_path:  # before Python's own, after those of tools such as pytest
            at = sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else len(sys.meta_path)
            sys.meta_path.insert(at, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not any(fullname == one or fullname.startswith(f"{one}.") for one in self._packages):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _FromSource(fullname, spec.loader.path)
        return spec


_FINDER = _Finder()


def _elsewhere(folder: Folder, file: Path) -> SchemaError:
    """Return why an existing folder cannot be imported: another package of the same name is first on the
    path.
    """
    package = folder.package.rpartition(".")[0]
    for name in (package, package.partition(".")[0]):
        found = sys.modules.get(name)
        places = [str(place) for place in getattr(found, "__path__", [getattr(found, "__file__", "")])]
        if found is not None:
            expected = folder.path.parents[folder.package.count(".") - name.count(".") - 1]
            return folder.error(
                f"the package {name} is imported from {', '.join(places)}, not from {expected}: two"
                " packages have the same name; rename one, or take the other off PYTHONPATH",
                file=file,
            )
    return folder.error(
        f"{folder.package} cannot be imported; expected its directory on PYTHONPATH", file=file
    )


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except FileNotFoundError:  # it was removed after it was imported
        return False


def fault(folder: Folder, file: Path, error: BaseException, *, of_rows: bool = False) -> SchemaError:
    """Return a SchemaError for an exception of a folder's own code, at the line of the folder that raised it.

    `of_rows`: the code had access to rows, so only words that occur in its source are kept in the message.
    """
    line = 1
    if isinstance(error, SyntaxError) and error.filename:
        file, line = Path(error.filename), error.lineno or 1
    else:
        inside = (
            f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent == folder.path
        )
        for frame in inside:
            file, line = Path(frame.filename), frame.lineno or 1
    gone = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    package, _, name = gone.rpartition(".")
    if package == folder.package.rpartition(".")[0] and (version := FOLDER_NAME.fullmatch(name)):
        return folder.error(
            f"the code needs the folder {name}, which is missing; restore it (from version control, or"
            f" with `everlog restore-folders {version[1]}`)",
            line,
            file,
            missing=name,
        )
    if not of_rows:
        return folder.error(private(error), line, file)
    return folder.error(words(error, str(file)), line, file, private=private(error))


def make_importable(root: Root) -> None:
    """Append the package's directory to `sys.path` if the package cannot be imported otherwise."""
    importlib.invalidate_caches()
    top, *_ = root.package.split(".")
    if top not in sys.modules and importlib.util.find_spec(top) is None:
        sys.path.append(str(root.top))


def load_folder(folder: Folder) -> Migration:
    """Return the migration of one folder, without checking it against earlier ones. Raises SchemaError, as
    `load`.
    """
    module = import_file(folder)
    file = folder.path / "__init__.py"
    migration = getattr(module, "MIGRATION", None)
    if not isinstance(migration, Migration):
        raise folder.error(f"expected `MIGRATION = Migration(tables=[…])`, found {migration!r}", file=file)
    constants = vars(module).values()
    for field in (item for item in constants if isinstance(item, Field)):
        field.check()
    _check_tables(folder, migration, [item for item in constants if isinstance(item, Table)])
    migration.folder, migration.overruled, migration.rules = folder, frozenset(), rules(folder)
    return migration


def _check_tables(folder: Folder, migration: Migration, declared: Iterable[Table[Any, Any]]) -> None:
    file = f"{folder.proto_package.replace('.', '/')}/model.proto"
    names: set[str] = set()
    for table in migration.tables:
        if not isinstance(table, Table):
            raise SchemaError(
                f"{migration.where}: expected `tables` of MIGRATION to be Tables, found {table!r:.80}",
                where=migration.where,
            )
        model = table.model.DESCRIPTOR
        if model.file.name != file:
            raise SchemaError(
                f"{table.where}: table {table.name} has the model {model.full_name} of {model.file.name},"
                f" expected one of this folder's own model.proto ({folder.proto_package})",
                where=table.where,
            )
        if table.name in names:
            raise SchemaError(
                f"{migration.where}: MIGRATION has two tables named {table.name!r}; rename one",
                where=migration.where,
            )
        names.add(table.name)
    ids = {id(table) for table in migration.tables}
    for constant in declared:  # constants of earlier folders are imported for `up` and `down`
        mine = Path(constant.where.rpartition(":")[0]).parent == folder.path
        if mine and id(constant) not in ids:
            raise SchemaError(
                f"{constant.where}: table {constant.name} is declared but not listed in MIGRATION; add it"
                " there",
                where=constant.where,
            )


def _check_chain(migrations: Iterable[Migration]) -> None:
    """Check that each migration can follow the previous ones, starting from an empty database."""
    schema, before = log_pb2.Schema(), dict[str, Table[Any, Any]]()
    for migration in migrations:
        schema, was = after(schema, migration), before
        before = {
            migration.rename.get(name, name): table
            for name, table in before.items()
            if name not in migration.drop
        }
        if migration.up is not None:
            _check_remake(
                migration.up, {table.name: table for table in migration.tables}, "of this migration"
            )
        if migration.down is not None:
            _check_remake(migration.down, was, "that existed before it")
        remade = {*migration.up.names} if migration.up is not None else set[str]()
        for transform in migration.transforms.values():
            _check_transform(migration, transform, before.get(transform.table.name))
        for table in migration.tables:
            if table.name in before and table.name not in remade | migration.transforms.keys():
                check_compatible(migration.folder, before[table.name], table, rules=migration.rules)
        for where, text in undeclared(migration, before):
            raise SchemaError(f"{where}: {text}", where=where)
        before |= {table.name: table for table in migration.tables}


def _check_transform(
    migration: Migration, transform: Transform[Any, Any], before: Table[Any, Any] | None
) -> None:
    name, old = transform.table.name, transform.old.DESCRIPTOR.full_name
    if migration.table(name) is not transform.table:
        text = f"transforms rows of {name}, which is not a table of this migration; add it to `tables`"
    elif before is None:
        text = f"transforms rows of {name}, but no earlier migration has that table"
    elif before.model is not transform.old:
        found = before.model.DESCRIPTOR.full_name
        text = f"transforms rows of {name} from {old}, but the earlier migrations declare them as {found}"
    else:
        return
    raise SchemaError(f"{transform.where}: {text}", where=transform.where)


def _check_remake(remake: Remake, known: dict[str, Table[Any, Any]], which: str) -> None:
    for table in remake.tables:
        if known.get(table.name) is not table:
            names = ", ".join(sorted(known)) or "none"
            raise SchemaError(
                f"{remake.where}: remakes rows of {table.name} ({table.model.DESCRIPTOR.full_name}), which"
                f" is not one of the tables {which}: {names}",
                where=remake.where,
            )


def after(schema: log_pb2.Schema, migration: Migration) -> log_pb2.Schema:
    """Return the schema after a migration is applied to `schema`. Raises SchemaError if it cannot be."""
    overruled = migration.overruled
    try:
        return evolve(
            schema,
            max(schema.version, migration.version),  # an out-of-order migration does not lower the version
            [table for table in migration.tables if table.name not in overruled],
            drop=[name for name in migration.drop if name not in overruled],
            rename=migration.rename,
            rewrite=migration.transforms,
            recompute=migration.up.names if migration.up is not None else (),
            since=migration.version,
        )
    except SchemaError as error:
        if error.facts.get("where"):
            raise
        raise SchemaError(f"{migration.where}: {error}", where=migration.where) from None
