"""Place: where a backup's segments and manifest are stored: a directory, or a URL that fsspec supports.

    place(URL or path) ─▶ LocalPlace    write: NAME.new ─▶ fsync ─▶ rename ─▶ fsync of the directory
                       ─▶ RemotePlace   s3://… gs://… memory://…: an object is written whole or not at all

Invariants
  (1) a file has the old or the new content, never a part;
  (2) after `write` returns, the data is durable on disk or accepted by the object store;
  (3) no message contains a URL's password.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from everlog.store import urls
from everlog.store.errors import CorruptionError, DiskError, OpenError
from everlog.store.process import Held
from everlog.store.rocks.errors import check_damage, reason, translated
from everlog.store.rocks.files import make_directory, private, sync_directory
from everlog.store.urls import without_secrets

NEW = ".new"


class Place(Protocol):
    """Files by name."""

    url: str
    """For messages, without secrets."""
    full_url: str
    """For reopening the place from any working directory, with secrets."""

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        """Return the file, or a part of it; a negative `start` counts from its end. Raises CorruptionError
        if the file does not exist, and DiskError if it may not be opened now."""

    def write(self, name: str, *parts: bytes) -> None:
        """Replace the file atomically by these parts, joined. Raises DiskError."""

    def names(self) -> list[str]:
        """Return the names of all files, sorted. Raises DiskError."""

    def remove(self, name: str) -> None: ...

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Exclude other writers. Raises OpenError if there is one."""


def place(where: str | os.PathLike[str], *, create: bool = False) -> Place:
    """Return the place behind a path or a URL; `create` makes its directory. Raises OpenError."""
    text = os.fspath(where)
    if _is_remote(text):
        return RemotePlace(text)
    path = urls.directory(text, expected="a directory or a URL of an object store")
    if path.exists() and not path.is_dir():
        raise OpenError(f"expected the directory of a backup, found a file: {path}")
    if not path.exists():
        if not create:
            raise OpenError(f"there is no directory {path}, and so no backup")
        try:
            make_directory(path)
        except OSError as error:
            raise OpenError(f"{path}: cannot create the directory: {reason(error, path)}") from error
    return LocalPlace(path)


def _is_remote(where: str) -> bool:
    """Return whether a path or URL names an object store."""
    scheme, _ = urls.parse(where)
    return scheme != urls.FILE and where.startswith(f"{scheme}://")


def same(one: str, other: str) -> bool:
    """Return whether two paths or URLs name one place. Read-only; the place need not exist."""
    return _named(one) == _named(other)


def check_storable(where: str | os.PathLike[str]) -> None:
    """Raise OpenError if the absolute name of a place is not UTF-8, so that no file of JSON can hold it.
    Read-only; the place need not exist."""
    name = _named(os.fspath(where))
    try:
        name.encode()
    except UnicodeEncodeError:
        raise OpenError(
            f"expected a path in UTF-8 for an archive, found {name!r}; the database would not find it again"
        ) from None


def _named(text: str) -> str:
    if _is_remote(text):
        return text.rstrip("/")
    return os.fspath(urls.directory(text).resolve())


class LocalPlace:
    """A directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url, self.full_url = str(path), os.fspath(path.resolve())

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        try:
            with (self.path / name).open("rb") as file:
                file.seek(start, os.SEEK_END if start < 0 else os.SEEK_SET)
                return file.read(-1 if size is None else size)
        except OSError as error:
            check_damage(error, f"reading {self.path / name}")
            raise CorruptionError(
                f"{self.path / name} cannot be read: {error.strerror}", place=str(self.path / name)
            ) from error

    def write(self, name: str, *parts: bytes) -> None:
        file = self.path / (name + NEW)
        try:
            with open(file, "wb", opener=private) as out:
                out.writelines(parts)
                out.flush()
                os.fsync(out.fileno())
                if hasattr(os, "posix_fadvise"):  # a later read then comes from the disk, not the cache
                    os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.replace(self.path / name)
            sync_directory(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                file.unlink()
            raise DiskError(
                f"{self.path / name} could not be written: {reason(error, file)}; the previous file is"
                " unchanged",
                outcome="nothing written",
            ) from error

    def names(self) -> list[str]:
        with translated(f"reading {self.path}"):
            return sorted(file.name for file in self.path.iterdir() if file.is_file())

    def remove(self, name: str) -> None:
        with translated(f"removing {self.path / name}"):
            (self.path / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        with translated(f"locking {self.path}"):
            directory = os.open(self.path, os.O_RDONLY)
        with Held(directory) as held:
            try:
                fcntl.flock(held.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OpenError(f"another process writes to {self.path} now; wait for it") from None
            yield


class RemotePlace:
    """A folder of an object store, through fsspec. Other writers are not excluded: the caller must ensure
    that there is only one at a time."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec  # type: ignore[import-untyped]  # noqa: PLC0415  optional dependency
        except ImportError:
            raise OpenError(
                f"{without_secrets(url)} needs fsspec: install everlog[archive] and the fsspec package"
                " for this URL"
            ) from None
        self.full_url = url.rstrip("/")
        self.url = without_secrets(self.full_url)
        try:
            self._files: Any
            self._files, self._root = fsspec.core.url_to_fs(self.full_url)
        except (ImportError, ValueError, OSError) as error:
            raise OpenError(f"{self.url} cannot be reached through fsspec: {self._said(error)}") from None

    def _said(self, error: Exception) -> str:
        """Return an error's text without the URL's secrets: some errors repeat the URL."""
        said = f"{type(error).__name__}: {error}"
        secret = self.full_url.partition("://")[2].rpartition("@")[0]
        for part in (f"{secret}@", secret, secret.partition(":")[2]):
            said = said.replace(part, "") if part.strip("@") else said
        return said

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        end = None if size is None else start + size
        try:
            data: bytes = self._files.cat_file(f"{self._root}/{name}", start=start or None, end=end or None)
            return data
        except Exception as error:  # noqa: BLE001  any error of an fsspec backend, shown without secrets
            raise CorruptionError(
                f"{self.url}/{name} cannot be read: {self._said(error)}", place=f"{self.url}/{name}"
            ) from None

    def write(self, name: str, *parts: bytes) -> None:
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        try:
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(f"{self._root}/{name}", data)
        except Exception as error:  # noqa: BLE001  any error of an fsspec backend, shown without secrets
            raise DiskError(
                f"{self.url}/{name} could not be written: {self._said(error)}", outcome="unknown"
            ) from None

    def names(self) -> list[str]:
        self._files.invalidate_cache()
        try:
            found = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:  # noqa: BLE001  any error of an fsspec backend, shown without secrets
            raise DiskError(
                f"{self.url} cannot be listed: {self._said(error)}", outcome="nothing written"
            ) from None
        return sorted(str(name).rstrip("/").rpartition("/")[2] for name in found)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        yield
