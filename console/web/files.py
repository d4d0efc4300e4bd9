"""Files: what browsers send to be imported, in a temporary directory of this process.

Invariants
  (1) at most FILES_MAX files are kept, each for some hours; a file displaces only those of its identity;
  (2) only the identity that sent a file reads it; without a name, only the session.
"""

from __future__ import annotations

import contextlib
import io
import secrets
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from everlog.console.source import format_of
from everlog.console.web.session import Session
from everlog.store.errors import LimitError, RowError

FILES_MAX, FILES_EACH, FILE_S = 20, 5, 4 * 3600.0  # of all, and of one identity


class File:
    """A file that somebody has sent. `form`: its format."""

    def __init__(self, session: Session, database: str, name: str, form: str, path: Path) -> None:
        self.id = secrets.token_urlsafe(9)
        self.session, self.database = session, database
        self.name, self.form, self.path = name, form, path
        self.size = path.stat().st_size
        self.until_s = time.monotonic() + FILE_S

    def visible_to(self, session: Session) -> bool:
        return self.session.same(session)

    @contextlib.contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open it, under the name that it had at its sender. Raises RowError if it was removed."""
        try:
            raw = io.FileIO(self.path)
        except OSError:
            raise RowError(f"{self.name} is kept no longer; send it again") from None
        raw.name = self.name
        with io.BufferedReader(raw) as found:
            yield found


class Files:
    """The files of one console, in a temporary directory. Thread-safe."""

    def __init__(self) -> None:
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._files: OrderedDict[str, File] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, session: Session, database: str, name: str, content: IO[bytes]) -> File:
        """Keep a file; the oldest of many of its identity is removed. Raises LoadError for a name without a
        known format, LimitError if others have too many."""
        form = format_of(name)
        with self._lock:
            self._drop(session)
            if len(self._files) >= FILES_MAX:
                raise LimitError(
                    f"{FILES_MAX} files are kept already; use `everlog import`, or try again later",
                    limit="console_files",
                    retry_s=60.0,
                )
            if self._directory is None:
                self._directory = tempfile.TemporaryDirectory(prefix="everlog-console-")
            path = Path(self._directory.name) / secrets.token_hex(8)
        with path.open("wb") as out:
            shutil.copyfileobj(content, out)
        found = File(session, database, name, form, path)
        with self._lock:
            self._files[found.id] = found
        return found

    def _drop(self, session: Session) -> None:
        """Remove files that are old, and the oldest of an identity that is about to send another one."""
        now = time.monotonic()
        own = [one for one in self._files.values() if one.visible_to(session)]
        gone = own[: max(0, len(own) + 1 - FILES_EACH)]
        gone += [one for one in self._files.values() if one.until_s < now and one not in gone]
        for one in gone:
            self._files.pop(one.id, None)
            one.path.unlink(missing_ok=True)

    def of(self, session: Session, database: str) -> list[File]:
        """Return the files of the identity of a session for a database, the newest first."""
        with self._lock:
            found = [one for one in self._files.values() if one.database == database][::-1]
        return [one for one in found if one.visible_to(session)]

    def close(self) -> None:
        with self._lock:
            if self._directory is not None:
                self._directory.cleanup()
                self._directory = None
            self._files.clear()
