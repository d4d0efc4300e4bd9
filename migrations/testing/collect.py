"""Collect: the derived tests of a migration's folder as pytest items.

    flights/migrations/v20260105093000_create_airports/model.proto::upgrades_with_data

They belong to the folder's model.proto, the one file that every folder has and that no other tool collects.
So each can be run by name, and a user's own tests beside it are ordinary pytest tests. Only the plugin
imports this module, because it imports pytest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from everlog.migrations.folder import Folder, find, folders
from everlog.migrations.testing.cases import DERIVED, Skipped, Subject
from everlog.migrations.testing.template import templates
from everlog.store.errors import Error


class MigrationFile(pytest.File):
    """The model.proto of a migration's folder. `source` is its package, if that is known."""

    def __init__(self, *, source: str = "", scale: int = 1, seed: int = 0, **how: Any) -> None:
        super().__init__(**how)
        self.source, self.scale, self.seed = source, scale, seed

    def collect(self) -> Iterator[pytest.Item]:
        """Yield the derived tests. Raises CollectError for an invalid folder."""
        try:
            made = templates(self._source())
            folder = next(one for one in folders(find(made.source)) if one.path == self.path.parent)
        except Error as error:
            raise self.CollectError(str(error)) from error
        for name, test in DERIVED.items():
            subject = Subject(made, folder, self.scale, self.seed)
            yield DerivedTest.from_parent(self, name=name, test=test, subject=subject)

    def _source(self) -> str | Path:
        directory = self.path.parent.parent
        return self.source if self.source and find(self.source).path.samefile(directory) else directory


class DerivedTest(pytest.Item):
    """One derived test of one folder."""

    def __init__(self, *, test: Callable[[Subject], None], subject: Subject, **how: Any) -> None:
        super().__init__(**how)
        self._test, self._subject = test, subject

    @property
    def folder(self) -> Folder:
        return self._subject.folder

    def runtest(self) -> None:
        try:
            self._test(self._subject)
        except Skipped as reason:
            pytest.skip(str(reason))

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Return an error of everlog without its traceback, which adds nothing."""
        if isinstance(excinfo.value, (Error, AssertionError)):
            return f"{type(excinfo.value).__name__}: {excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, f"{self.folder.title}: {self.name}"
