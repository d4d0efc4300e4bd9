"""The small files beside RocksDB."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlog.store.errors import OpenError
from everlog.store.rocks import files


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    files.write(tmp_path / files.HEAD, files.Head(812, 3735928559), sync=True)
    assert (tmp_path / files.HEAD).read_text() == '{"seq":812,"checksum":3735928559}\n'
    assert files.read(tmp_path / files.HEAD, files.Head) == files.Head(812, 3735928559)
    assert files.read(tmp_path / "none", files.Head) is None


def test_files_are_listed_by_their_names_and_a_missing_directory_has_none(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    for name in ("a.sst", "b.sst", "one/c.log"):
        (tmp_path / name).touch()
    assert sorted(file.name for file in files.matching(tmp_path, "*.sst")) == ["a.sst", "b.sst"]
    found = {str(file.relative_to(tmp_path)) for file in files.below(tmp_path)}
    assert found == {"a.sst", "b.sst", "one", "one/c.log"}
    assert files.matching(tmp_path / "none", "*") == list(files.below(tmp_path / "none")) == []


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    for seq in range(1, 4):
        files.write(tmp_path / files.HEAD, files.Head(seq, 0), sync=False)
    assert [file.name for file in tmp_path.iterdir()] == [files.HEAD]


@pytest.mark.parametrize("content", [b"", b"{", b'{"seq":"a"}', b"\xff"])
def test_a_file_that_is_not_one_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / files.HEAD).write_bytes(content)
    with pytest.raises(OpenError, match="is not a valid HEAD file of everlog"):
        files.read(tmp_path / files.HEAD, files.Head)


def test_a_newer_format_is_refused_and_an_unknown_word_is_not(tmp_path: Path) -> None:
    (tmp_path / files.MARKER).write_text('{"format":1,"database":"x","more":true}')
    assert files.read_marker(tmp_path) == files.Marker(1, "x")
    (tmp_path / files.MARKER).write_text('{"format":2,"database":"x"}')
    with pytest.raises(OpenError, match="has format 2, this version of everlog supports up to 1"):
        files.read_marker(tmp_path)
