"""Digest: by which an edit of a migration that was applied is seen.

    digest := SHA-256( file* )                 sorted by path, as bytes
    file   := length:u32be path  length:u64be content
    path   := relative to the folder, parts joined by "/", UTF-8
    content := the file's bytes, each CR LF as LF, so that a checkout on Windows is no edit

What counts is what can change a database. Left out are: generated code (`*_pb2.py`, `*_pb2.pyi`),
for it follows from `model.proto`; test data (`testdata.py`) and tests (`tests/`, `test_*.py`,
`conftest.py`), which may go on being improved; and what no author writes: hidden files, caches,
compiled code, backups. The folder's name is not in it: its timestamp is the migration's version,
which the log holds beside the digest, and the words after it are for people.

A worked example: docs/format.md, "Digest of a migration".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from everlog.proto import log_pb2

_LEFT_OUT = ("*_pb2.py", "*_pb2.pyi", "testdata.py", "test_*.py", "conftest.py", ".*", "*.pyc", "*~")
_LEFT_OUT_FOLDERS = ("tests", "__pycache__", ".*")


def sources(folder: Path) -> list[log_pb2.SourceFile]:
    """The files of a migration's folder that count, in the digest's order. Read-only."""
    found = {path.relative_to(folder).as_posix(): path for path in _walk(folder)}
    return [
        log_pb2.SourceFile(path=name, content=found[name].read_bytes().replace(b"\r\n", b"\n"))
        for name in sorted(found, key=str.encode)
    ]


def digest(files: Iterable[log_pb2.SourceFile]) -> bytes:
    """The digest of such files, 32 bytes."""
    sha = hashlib.sha256()
    for file in files:
        path = file.path.encode()
        sha.update(len(path).to_bytes(4) + path + len(file.content).to_bytes(8) + file.content)
    return sha.digest()


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            if not any(path.match(pattern) for pattern in _LEFT_OUT_FOLDERS):
                yield from _walk(path)
        elif not any(path.match(pattern) for pattern in _LEFT_OUT):
            yield path
