"""Testing: the pytest plugin, and its parts for tests without pytest.

    def test_airports(everlog_db): …                     the newest version, bootstrap rows
    @pytest.mark.everlog(testdata=True, on="server")     with test data, on a server
    def test_names(everlog_at): db = everlog_at(20260105093000); upgrade_to(db)

Further tests are derived from the migrations' folders. pytest finds the plugin automatically; it imports
nothing else of everlog until a test uses a database. See docs/testing.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from everlog.migrations.testing.template import Templates
    from everlog.rpc.testing import AnyDatabase, Opener, at_version, upgrade_to

__all__ = ["Opener", "at_version", "upgrade_to"]

_FOLDER = re.compile(r"v\d{14}_[a-z][a-z0-9_]*")
_KINDS = ("memory", "file", "server")
_MARK = "everlog(version=None, testdata=False, scale=None, seed=None, on=None): the database of this test"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Not `from everlog.rpc import testing`: after another pytest in this process has restored sys.modules,
    # the package still refers to the removed module, and the fixtures would import a different one.
    return getattr(import_module("everlog.rpc.testing"), name)


# settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("everlog_migrations", "package or directory of the migrations", default="")
    parser.addini("everlog_scale", "amount of test data, relative to 1", default="1")
    parser.addini("everlog_seed", "seed of the test data", default="0")
    parser.addini("everlog_on", f"kinds of databases: {', '.join(_KINDS)}", type="args", default=["memory"])
    parser.addini("everlog_derived", "whether to derive tests from folders", type="bool", default=True)
    group = parser.getgroup("everlog")
    group.addoption(
        "--everlog-on",
        action="append",
        choices=_KINDS,
        metavar="KIND",
        help=f"run tests that use a database on this kind: {', '.join(_KINDS)}; may be repeated",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARK)
    if config.args_source is config.ArgsSource.ARGS or not config.getini("everlog_derived"):
        return
    if source := config.getini("everlog_migrations"):
        from everlog.migrations.folder import find
        from everlog.store.errors import SchemaError

        try:
            config.args.append(str(find(source).path))
        except SchemaError as error:
            raise pytest.UsageError(f"everlog_migrations: {error}{_off_the_path(config, source)}") from None


def _off_the_path(config: pytest.Config, source: str) -> str:
    """Return the remedy for a package that is in the project, but not on Python's path; else nothing."""
    if not config.rootpath.joinpath(*source.split(".")).is_dir():
        return ""
    return '. It is in this project: add `pythonpath = ["."]` to [tool.pytest.ini_options]'


def pytest_unconfigure() -> None:
    if template := sys.modules.get("everlog.migrations.testing.template"):
        template.close_templates()


def _number(config: pytest.Config, name: str) -> int:
    text = config.getini(name)
    try:
        return int(text)
    except ValueError:
        raise pytest.UsageError(f"{name}: expected a number, found {text!r}") from None


# derived tests


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect the derived tests of a migration's folder, by its model.proto."""
    if file_path.name != "model.proto" or not _FOLDER.fullmatch(file_path.parent.name):
        return None
    if not parent.config.getini("everlog_derived"):
        return None
    from everlog.migrations.testing.collect import MigrationFile

    found: pytest.Collector = MigrationFile.from_parent(
        parent,
        path=file_path,
        source=parent.config.getini("everlog_migrations"),
        scale=_number(parent.config, "everlog_scale"),
        seed=_number(parent.config, "everlog_seed"),
    )
    return found


# fixtures


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses a database once for each kind that its marker, the command or the settings
    name."""
    if "everlog_on" in metafunc.fixturenames and len(kinds := _kinds(metafunc.definition)) > 1:
        metafunc.parametrize("everlog_on", kinds)


def _kinds(test: pytest.Item) -> list[str]:
    mark = test.get_closest_marker("everlog")
    asked = mark.kwargs.get("on") if mark else None
    kinds = [asked] if isinstance(asked, str) else asked
    kinds = kinds or test.config.getoption("--everlog-on") or test.config.getini("everlog_on")
    if unknown := sorted(set(kinds).difference(_KINDS)):
        raise pytest.UsageError(f"everlog_on: expected {', '.join(_KINDS)}, found {', '.join(unknown)}")
    return list(kinds)


@pytest.fixture
def everlog_on(request: pytest.FixtureRequest) -> str:
    """The kind of database for this test: memory, file or server."""
    return _kinds(request.node)[0]


@pytest.fixture(scope="session")
def everlog_migrations(pytestconfig: pytest.Config) -> str:
    """The package or directory of the migrations. Redefine it if there are several."""
    return str(pytestconfig.getini("everlog_migrations") or "migrations")


@pytest.fixture
def everlog_at(
    everlog_migrations: str,
    everlog_on: str,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[Opener]:
    """Open databases at any version: `everlog_at(20260105093000, testdata=True)`."""
    from everlog.migrations.testing.template import templates
    from everlog.rpc.testing import Opener

    made: Templates = templates(everlog_migrations)
    with ExitStack() as stack:
        yield Opener(
            made,
            stack,
            on=everlog_on,
            scale=_number(pytestconfig, "everlog_scale"),
            seed=_number(pytestconfig, "everlog_seed"),
            directory=lambda: tmp_path_factory.mktemp("everlog") / "db",
        )


@pytest.fixture
def everlog_db(request: pytest.FixtureRequest, everlog_at: Opener) -> AnyDatabase:
    """A new database for this test: the newest version with its bootstrap rows, unless `@pytest.mark.everlog`
    selects another."""
    mark = request.node.get_closest_marker("everlog")
    how = dict(mark.kwargs) if mark else {}
    if (mark and mark.args) or how.keys() - {"version", "testdata", "scale", "seed", "on"}:
        raise pytest.UsageError(f"expected @pytest.mark.{_MARK.partition(':')[0]}, found {mark}")
    how.pop("on", None)  # everlog_at has it already
    return everlog_at(how.pop("version", None), **how)
