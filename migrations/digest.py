"""Digest: by which an edit of a migration that was applied is seen.

    digest := SHA-256( [ "everlog digest 2\\n" ] file* )      sorted by path, as bytes
    file   := length:u32be path  length:u64be content
    path   := relative to the folder, parts joined by "/", UTF-8
    content := text: each CR LF as LF, so that a checkout on Windows is no edit
               other files: as they are; a folder that has any is digested with the prefix
    salted := HMAC-SHA-256( salt, "everlog digest 3\n" file* )    where the folder has a salt

`content` is what the log keeps and what is parsed, never the file once more.

A folder that may bring rows of people has a salt, at the top of its `model_pb2.py` (build.py): without
it, the digest confirms no guess about files that the log does not keep. The salt is in none of the
digested files, so it is never in the log.

What counts is what can change a database. Left out are: generated code (`*_pb2.py`, `*_pb2.pyi`),
for it follows from `model.proto`; test data (`testdata.py`) and tests (`tests/`, `test_*.py`,
`conftest.py`), which may go on being improved; and what no author writes: hidden files, caches,
compiled code, backups. The folder's name is not in it: its timestamp is the migration's version,
which the log holds beside the digest, and the words after it are for people.

    meaning := SHA-256( file* )     of Python and .proto: the tokens, without comments and docstrings

Two folders of one meaning do the same to a database: an edit of a comment is no edit.

A worked example: docs/format.md, "Digest of a migration".
"""

from __future__ import annotations

import hashlib
import hmac
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

from everlog.proto import log_pb2
from everlog.store.errors import SchemaError

_LEFT_OUT = ("*_pb2.py", "*_pb2.pyi", "testdata.py", "test_*.py", "conftest.py", ".*", "*.pyc", "*~")
_LEFT_OUT_FOLDERS = ("tests", "__pycache__", ".*")

_VERSION_2 = b"everlog digest 2\n"  # no path is so long that version 1 could begin like this
_SALTED = b"everlog digest 3\n"
_BOM = b"\xef\xbb\xbf"
_BINARY_SUFFIXES = (".parquet",)  # whatever is in it

_PROTO_TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/|\s+|("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[\w.]+|.)""", re.DOTALL
)
_LAYOUT = {tokenize.INDENT, tokenize.DEDENT}
_SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING}
_STATEMENT_ENDS = {tokenize.NEWLINE, *_LAYOUT}


def sources(folder: Path) -> list[log_pb2.SourceFile]:
    """The files of a migration's folder that count, in the digest's order. Read-only.

    Raises SchemaError for what is no readable file, and for a name that is not UTF-8.
    """
    found = {path.relative_to(folder).as_posix(): path for path in _walk(folder, ())}
    for name, path in found.items():
        if not name.isascii() and not _is_utf8(name):
            raise _error(path, "expected a name in UTF-8")
    return [
        log_pb2.SourceFile(path=name, content=_content(found[name])) for name in sorted(found, key=str.encode)
    ]


def digest(files: Iterable[log_pb2.SourceFile], salt: bytes = b"") -> bytes:
    """The digest of such files, 32 bytes; with `salt`: nobody can compute it without."""
    files = list(files)
    if salt:
        keyed = hmac.new(salt, _SALTED, hashlib.sha256)
        for part in _parts((file.path, file.content) for file in files):
            keyed.update(part)
        return keyed.digest()
    binary = any(is_binary(file.path, file.content) for file in files)
    return _sha(((file.path, file.content) for file in files), _VERSION_2 if binary else b"")


def legacy(files: Iterable[log_pb2.SourceFile]) -> bytes | None:
    """The digest that versions before 2 recorded, where it is another: they took files that are no
    text for text."""
    files = list(files)
    if not any(is_binary(file.path, file.content) for file in files):
        return None
    return _sha(((file.path, _with_lf(file.content)) for file in files), b"")


def meaning(files: Iterable[log_pb2.SourceFile]) -> bytes:
    """The digest of what such files do, 32 bytes: comments, blank lines and docstrings are not in it.

    It is the same in every version of Python. A file that cannot be read as code is taken as it is.
    """
    return _sha(((file.path, _meaning(file.path, file.content)) for file in files), b"")


def is_binary(path: str, content: bytes) -> bool:
    """Whether a file is no text: its line ends are left as they are."""
    return path.endswith(_BINARY_SUFFIXES) or b"\0" in content or not _is_text(content)


def _sha(files: Iterable[tuple[str, bytes]], prefix: bytes) -> bytes:
    sha = hashlib.sha256(prefix)
    for part in _parts(files):
        sha.update(part)
    return sha.digest()


def _parts(files: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    for name, content in files:
        path = name.encode()
        yield len(path).to_bytes(4) + path + len(content).to_bytes(8)
        yield content


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
        raise _error(folder, "is a link to a directory that it is in")
    for path in folder.iterdir():
        if path.is_dir():
            if not any(path.match(pattern) for pattern in _LEFT_OUT_FOLDERS):
                yield from _walk(path, (*within, here))
        elif not any(path.match(pattern) for pattern in _LEFT_OUT):
            if not path.is_file():
                what = "is a link to nothing" if path.is_symlink() else "is no file"
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
    """The tokens of code, with a mark for what indents; a string alone in a statement is a docstring."""
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
    """Tokens that count. An f-string is one, as it was before Python 3.12."""
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
