"""Serve, packages: which migrations each database of a server has.

    --migrations PACKAGE         of all that have none of their own
    --migrations NAME=PACKAGE    of this one
    -d, EVERLOG_MIGRATIONS_DIR   of all, where --migrations says nothing
    ./migrations                 of the one database that is served, where nothing else is said

A package is its name or its directory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import click

from everlog.console.settings import Settings
from everlog.migrations.folder import Root, find
from everlog.store.errors import OpenError, SchemaError

packages_option = click.option(
    "--migrations",
    "packages",
    multiple=True,
    metavar="[NAME=]PACKAGE",
    help="Migrations of all databases, or of one; may be repeated.  [default: those of --migrations-dir]",
)


def packages(
    settings: Settings, words: Sequence[str], databases: Iterable[str], *, needed: bool
) -> dict[str, str]:
    """The package of each database that has one; with `needed` each must.

    Raises OpenError for a name that is none of them, and for two packages that Python cannot tell
    apart.
    """
    names, found, common = list(databases), dict[str, str](), ""
    for word in words:
        name, equals, package = word.partition("=")
        if not equals:
            name, package = "", word
        if (name in found) if name else bool(common):
            raise OpenError(f"two packages of migrations are given for {name or 'all databases'}; give one")
        if name and name not in names:
            raise OpenError(
                f"--migrations {word}: this server has no database {name!r}; it has: {', '.join(names)}"
            )
        if not package:
            raise OpenError(f"--migrations {word}: expected NAME=PACKAGE or PACKAGE, found no package")
        if name:
            found[name] = package
        else:
            common = package
    if not words:
        here = len(names) == 1 and Path(settings.migrations).is_dir()  # of several, which one's would it be?
        common = settings.migrations_or_none or (settings.migrations if needed or here else "")
    for name in names:
        if name not in found and common:
            found[name] = common
        elif name not in found and needed:
            raise OpenError(
                f"{name} has no migrations: expected --migrations {name}=PACKAGE, or --migrations PACKAGE"
                " for all, found neither; serve it with a server of its own if it has none"
            )
    _check_apart(found)
    return found


def _check_apart(found: dict[str, str]) -> None:
    """Raises OpenError for two directories that are one name to Python."""
    if len(set(found.values())) < 2:
        return
    roots = dict[str, Root]()
    for name, package in found.items():
        with suppress(SchemaError):  # loading reports a missing one
            roots[name] = find(package)
    for name, root in roots.items():
        for other, there in roots.items():
            if root.package == there.package and root.path != there.path:
                raise OpenError(
                    f"the migrations of {name} ({root.path}) and of {other} ({there.path}) are both the"
                    f" package {root.package}; put them into packages of different names, as"
                    f" {name}.migrations and {other}.migrations (an __init__.py in the"
                    " directory above makes it one)"
                )
