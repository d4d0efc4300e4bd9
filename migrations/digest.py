"""Digest: detects edits of a migration after it was applied.

    digest := SHA-256( [ "everlog digest 2\\n" ] file* )      sorted by path, as bytes
    file   := length:u32be path  length:u64be content
    path   := relative to the folder, parts joined by "/", UTF-8
    content := text: each CR LF as LF, so that a checkout on Windows is not an edit
               other files: unchanged; the digest of a folder that has any gets the prefix
    salted := HMAC-SHA-256( salt, "everlog digest 3\\n" file* )    if the folder has a salt

    meaning := SHA-256( file* )     of Python and .proto: the tokens, without comments and docstrings

Two folders with the same meaning do the same to a database: an edit of a comment does not count.

`content` is what the log keeps and what is parsed. Large files of rows are not held in memory: a SourceFile
has their SHA-256, and they are read in pieces (`chunks`), compared with it each time.

A folder that may contain rows of people has a salt, at the top of its `model_pb2.py` (build.py). Without the
salt, the digest confirms no guess about files that the log does not keep. The salt is in none of the
digested files, so it is never in the log.

The digest covers what can change a database. It excludes generated code (`*_pb2.py`, `*_pb2.pyi`), which
follows from `model.proto`; test data (`testdata.py`) and tests (`tests/`, `test_*.py`, `conftest.py`), which
may be improved later; and files without an author: hidden files, caches, compiled code, backups. It also
excludes the folder's name: its timestamp is the migration's version, which the log holds beside the digest,
and the rest of the name is for people.

A worked example: docs/format.md, "Digest of a migration".
"""

from __future__ import annotations

import codecs
import hashlib
import hmac
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from everlog.proto import log_pb2
from everlog.store.errors import SchemaError

_LEFT_OUT = ("*_pb2.py", "*_pb2.pyi", "testdata.py", "test_*.py", "conftest.py", ".*", "*.pyc", "*~")
_LEFT_OUT_FOLDERS = ("tests", "__pycache__", ".*")

_VERSION_2 = b"everlog digest 2\n"  # no path is long enough for version 1 to begin like this
_SALTED = b"everlog digest 3\n"
_BOM = b"\xef\xbb\xbf"
_BINARY_SUFFIXES = (".parquet",)  # binary whatever the content
_CODE_SUFFIXES = (".py", ".proto")

KEPT_BYTES_MAX = 2 << 20  # of a folder's files other than code, because the size of a record is limited
CHUNK_BYTES = 1 << 20

_PROTO_TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/|\s+|("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[\w.]+|.)""", re.DOTALL
)
_LAYOUT = {tokenize.INDENT, tokenize.DEDENT}
_SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING}
_STATEMENT_ENDS = {tokenize.NEWLINE, *_LAYOUT}


def sources(folder: Path) -> list[log_pb2.SourceFile]:
    """Return the files of a migration's folder that the digest covers, in its order. Read-only.

    If the files other than code exceed KEPT_BYTES_MAX, the largest of them have `digest` (SHA-256) and `size`
    instead of content. Raises SchemaError for anything that is not a readable file, and for a name that is
    not UTF-8.
    """
    found = {path.relative_to(folder).as_posix(): path for path in _walk(folder, ())}
    for name, path in found.items():
        if not name.isascii() and not _is_utf8(name):
            raise _error(path, "expected a name in UTF-8")
    large = _large(found)
    return [
        _look(found[name]).source(name)
        if name in large
        else log_pb2.SourceFile(path=name, content=_content(found[name]))
        for name in sorted(found, key=str.encode)
    ]


def _large(found: dict[str, Path]) -> set[str]:
    """Return the largest files of rows, enough for the others to fit into a record."""
    sizes = {name: path.stat().st_size for name, path in found.items() if not name.endswith(_CODE_SUFFIXES)}
    large, left = set[str](), sum(sizes.values())
    for name in sorted(sizes, key=lambda name: sizes[name], reverse=True):
        if left <= KEPT_BYTES_MAX:
            break
        large.add(name)
        left -= sizes[name]
    return large


def is_large(file: log_pb2.SourceFile) -> bool:
    """Whether a file from `sources` has its SHA-256 in place of its content."""
    return bool(file.digest)


def sha256(file: log_pb2.SourceFile) -> bytes:
    """Return the SHA-256 of a file from `sources`."""
    return file.digest or hashlib.sha256(file.content).digest()


def pieces(file: log_pb2.SourceFile, folder: Path) -> Iterator[bytes]:
    """Yield the content of a file from `sources(folder)`, in pieces of bounded size. Read-only.

    Raises SchemaError after the last piece if the file has changed since.
    """
    if not is_large(file):
        yield file.content
        return
    path, sha = folder / file.path, hashlib.sha256()
    for piece in chunks(path, binary=_look(path).binary):
        sha.update(piece)
        yield piece
    if sha.digest() != file.digest:
        raise _error(path, "changed while it was read; try again")


def chunks(path: Path, *, binary: bool) -> Iterator[bytes]:
    """Yield the bytes of a file as they are digested and parsed, in pieces. Read-only. Raises SchemaError."""
    try:
        with path.open("rb") as file:
            yield from _read(file) if binary else _lf_only(_read(file))
    except OSError as error:
        raise _error(path, f"cannot be read: {error.strerror}") from None


def _read(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(CHUNK_BYTES):
        yield piece


def _lf_only(read: Iterable[bytes]) -> Iterator[bytes]:
    """Replace each CR LF by LF, also across two pieces."""
    held = b""
    for piece in read:
        whole = held + piece
        held = b"\r" if whole.endswith(b"\r") else b""
        yield _with_lf(whole[: len(whole) - len(held)])
    yield held


class _Looked(NamedTuple):
    """The facts about a large file."""

    binary: bool
    size: int  # of the bytes that are digested
    digest: bytes

    def source(self, name: str) -> log_pb2.SourceFile:
        return log_pb2.SourceFile(path=name, digest=self.digest, size=self.size)


def _look(path: Path) -> _Looked:
    binary = path.name.endswith(_BINARY_SUFFIXES) or not _is_all_text(chunks(path, binary=True))
    sha, size = hashlib.sha256(), 0
    for piece in chunks(path, binary=binary):
        sha.update(piece)
        size += len(piece)
    return _Looked(binary, size, sha.digest())


def _is_all_text(read: Iterable[bytes]) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for piece in read:
            if b"\0" in piece:
                return False
            decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def digest(files: Iterable[log_pb2.SourceFile], folder: Path, salt: bytes = b"") -> bytes:
    """Return the digest of these files of a folder, 32 bytes. With `salt`, it cannot be computed without
    it.
    """
    files = list(files)
    if salt:
        keyed = hmac.new(salt, _SALTED, hashlib.sha256)
        for part in _parts(files, folder):
            keyed.update(part)
        return keyed.digest()
    binary = any(_is_binary(file, folder) for file in files)
    return _sha(files, folder, _VERSION_2 if binary else b"")


def legacy(files: Iterable[log_pb2.SourceFile], folder: Path) -> bytes | None:
    """Return the digest that versions before 2 recorded, or None if it is the same.

    Those versions treated binary files as text.
    """
    files = list(files)
    if not any(_is_binary(file, folder) for file in files):
        return None
    return _sha(files, folder, b"", lf_only=True)


def meaning(files: Iterable[log_pb2.SourceFile], folder: Path) -> bytes:
    """Return the digest of what these files do, 32 bytes, without comments, blank lines and docstrings.

    It is the same in every version of Python. A file that cannot be parsed as code is digested as it is.
    """
    stripped = [
        file
        if is_large(file)
        else log_pb2.SourceFile(path=file.path, content=_meaning(file.path, file.content))
        for file in files
    ]
    return _sha(stripped, folder, b"")


def _is_binary(file: log_pb2.SourceFile, folder: Path) -> bool:
    return _look(folder / file.path).binary if is_large(file) else is_binary(file.path, file.content)


def is_binary(path: str, content: bytes) -> bool:
    """Whether a file is not text, so that its line ends are left unchanged."""
    return path.endswith(_BINARY_SUFFIXES) or b"\0" in content or not _is_text(content)


def _sha(files: Iterable[log_pb2.SourceFile], folder: Path, prefix: bytes, *, lf_only: bool = False) -> bytes:
    sha = hashlib.sha256(prefix)
    for part in _parts(files, folder, lf_only=lf_only):
        sha.update(part)
    return sha.digest()


def _parts(files: Iterable[log_pb2.SourceFile], folder: Path, *, lf_only: bool = False) -> Iterator[bytes]:
    for file in files:
        path = file.path.encode()
        size = file.size if is_large(file) else len(file.content)
        if lf_only:
            size = sum(map(len, _lf_only(pieces(file, folder))))
        yield len(path).to_bytes(4) + path + size.to_bytes(8)
        yield from _lf_only(pieces(file, folder)) if lf_only else pieces(file, folder)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _error(path, f"cannot be read: {error.strerror}") from None
    return content if is_binary(path.name, content) else _with_lf(content)


def _with_lf(content: bytes) -> bytes:
    return content.replace(b"\r\n", b"\n")


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk(folder: Path, within: tuple[Path, ...]) -> Iterator[Path]:
    here = folder.resolve()
    if here in within:
        raise _error(folder, "is a link to a directory that contains it")
    for path in folder.iterdir():
        if path.is_dir():
            if not any(path.match(pattern) for pattern in _LEFT_OUT_FOLDERS):
                yield from _walk(path, (*within, here))
        elif not any(path.match(pattern) for pattern in _LEFT_OUT):
            if not path.is_file():
                what = "is a broken link" if path.is_symlink() else "is not a file"
                raise _error(path, f"{what}; expected only files in a migration's folder")
            yield path


def _meaning(path: str, content: bytes) -> bytes:
    if path.endswith(".py"):
        try:
            return "\0".join(_python(content)).encode(errors="surrogatepass")
        except (tokenize.TokenError, SyntaxError, UnicodeDecodeError, ValueError):
            return content
    content = content.removeprefix(_BOM)
    if path.endswith(".proto") and _is_text(content):
        found = (token[1] for token in _PROTO_TOKEN.finditer(content.decode()))
        return "\0".join(token for token in found if token).encode()
    return content


def _python(content: bytes) -> Iterator[str]:
    """Yield the tokens of code, with marks for indentation. A string that is a whole statement is a
    docstring.
    """
    lines = io.StringIO(content.removeprefix(_BOM).decode(_encoding(content))).readlines()
    before, string = tokenize.NEWLINE, ""
    for kind, text in _whole(lines):
        if string:
            if kind == tokenize.NEWLINE:
                string, before = "", kind
                continue
            yield string
            before, string = tokenize.STRING, ""
        if kind == tokenize.STRING and before in _STATEMENT_ENDS:
            string = text
            continue
        before = kind
        yield {tokenize.INDENT: "\1", tokenize.DEDENT: "\2", tokenize.NEWLINE: "\n"}.get(kind, text)


def _whole(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the tokens that count. An f-string is one token, as in Python 3.11."""
    starts, ends = _named("FSTRING_START", "TSTRING_START"), _named("FSTRING_END", "TSTRING_END")
    depth, begun = 0, (1, 0)
    for token in tokenize.generate_tokens(io.StringIO("".join(lines)).readline):
        if token.type in starts:
            if not depth:
                begun = token.start
            depth += 1
        elif token.type in ends:
            depth -= 1
            if not depth:
                yield tokenize.NUMBER, _between(lines, begun, token.end)
        elif not depth and token.type not in _SILENT:
            prefix = token.string.partition(token.string[-1])[0] if token.type == tokenize.STRING else ""
            yield tokenize.NUMBER if "f" in prefix.lower() else token.type, token.string


def _named(*names: str) -> set[int]:
    return {getattr(tokenize, name) for name in names if hasattr(tokenize, name)}


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    (first, left), (last, right) = start, end
    if first == last:
        return lines[first - 1][left:right]
    return lines[first - 1][left:] + "".join(lines[first : last - 1]) + lines[last - 1][:right]


def _encoding(content: bytes) -> str:
    encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    return "utf-8" if encoding == "utf-8-sig" else encoding


def _error(path: Path, text: str) -> SchemaError:
    return SchemaError(f"{path}: {text}", where=f"{path}:1")
