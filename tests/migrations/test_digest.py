import hashlib
from pathlib import Path

import pytest

from everlog import SchemaError
from everlog.migrations import digest as digest_module
from everlog.migrations.digest import digest, legacy, meaning, pieces, sources

MODEL = b'syntax = "proto3";\n'
CODE = b"MIGRATION = 1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.proto").write_bytes(MODEL)
    (tmp_path / "__init__.py").write_bytes(CODE)
    return tmp_path


def test_the_digest_is_that_of_the_documented_bytes(folder: Path) -> None:
    expected = hashlib.sha256(
        bytes.fromhex("0000000b") + b"__init__.py" + bytes.fromhex("000000000000000e") + CODE
        + bytes.fromhex("0000000b") + b"model.proto" + bytes.fromhex("0000000000000013") + MODEL
    ).digest()  # fmt: skip
    assert digest(sources(folder), folder) == expected
    assert expected.hex() == "6c4821fc246b356d05740d822ad2cc6a7e2ed7e103dab6f1986271e170334221"


@pytest.mark.parametrize(
    "name", ["bootstrap.py", "bootstrap_airports.csv", "helpers/names.py", "transform.py"]
)
def test_a_file_that_can_change_the_database_counts(folder: Path, name: str) -> None:
    before = digest(sources(folder), folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("JFK")
    added = digest(sources(folder), folder)
    (folder / name).write_text("EWR")
    assert len({before, added, digest(sources(folder), folder)}) == 3


@pytest.mark.parametrize(
    "name",
    [
        "model_pb2.py",
        "model_pb2.pyi",
        "testdata.py",
        "test_it.py",
        "tests/test_it.py",
        "conftest.py",
        ".x.swp",
        "__pycache__/a.pyc",
        "model.proto~",
    ],
)
def test_what_is_generated_or_for_tests_does_not_count(folder: Path, name: str) -> None:
    before = digest(sources(folder), folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("anything")
    assert digest(sources(folder), folder) == before


def test_a_checkout_with_other_line_ends_is_no_edit(folder: Path) -> None:
    before = digest(sources(folder), folder)
    (folder / "model.proto").write_bytes(MODEL.replace(b"\n", b"\r\n"))
    assert digest(sources(folder), folder) == before


def test_content_that_moves_from_one_file_to_the_next_is_an_edit(folder: Path) -> None:
    (folder / "a").write_text("12")
    (folder / "b").write_text("3")
    before = digest(sources(folder), folder)
    (folder / "a").write_text("1")
    (folder / "b").write_text("23")
    assert digest(sources(folder), folder) != before


def test_a_file_that_is_no_text_counts_as_it_is_and_its_digest_of_before_is_known(folder: Path) -> None:
    assert legacy(sources(folder), folder) is None
    table = folder / "bootstrap_airports.parquet"
    table.write_bytes(b"PAR1\x00\r\n\x00PAR1")
    with_cr = digest(sources(folder), folder)
    assert sources(folder)[1].content == table.read_bytes()
    recorded = hashlib.sha256()
    for name, content in (("__init__.py", CODE), (table.name, b"PAR1\x00\n\x00PAR1"), ("model.proto", MODEL)):
        recorded.update(len(name).to_bytes(4) + name.encode() + len(content).to_bytes(8) + content)
    assert legacy(sources(folder), folder) == recorded.digest()
    table.write_bytes(b"PAR1\x00\n\x00PAR1")
    assert len({digest(sources(folder), folder), with_cr, recorded.digest()}) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"faa,name\r\nJFK,\xc3\xa9\r\r\nLGA,x\r",
        b"no text\0\r\nend",
        b"cut \xc3",
        b"\r\n" * 5,
        b"x\n",
    ],
)
@pytest.mark.parametrize("piece", [1, 2, 3, 100])
def test_a_large_file_has_the_digest_of_a_small_one_and_the_same_content(
    folder: Path, content: bytes, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "bootstrap_airports.csv").write_bytes(content)
    small = sources(folder)
    expected = [made(small, folder) for made in (digest, legacy, meaning)]
    monkeypatch.setattr(digest_module, "KEPT_BYTES_MAX", 0)
    monkeypatch.setattr(digest_module, "CHUNK_BYTES", piece)
    large = sources(folder)
    file = large[1]
    assert (file.content, file.size, len(file.digest)) == (b"", len(small[1].content), 32)
    assert [made(large, folder) for made in (digest, legacy, meaning)] == expected
    assert b"".join(pieces(file, folder)) == small[1].content
    (folder / "bootstrap_airports.csv").write_bytes(content + b"more")
    with pytest.raises(SchemaError, match="changed while it was read"):
        list(pieces(file, folder))


def test_the_largest_files_that_are_no_code_have_no_content(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest_module, "KEPT_BYTES_MAX", 100)
    for name, size in (("bootstrap_a.csv", 60), ("bootstrap_b.csv", 90), ("names.json", 40), ("up.py", 500)):
        (folder / name).write_bytes(b"1" * size)
    assert [file.path for file in sources(folder) if file.digest] == ["bootstrap_b.csv"]


def test_the_mode_of_a_file_is_no_edit_and_a_link_counts_as_what_it_leads_to(folder: Path) -> None:
    before = digest(sources(folder), folder)
    (folder / "model.proto").chmod(0o755)
    assert digest(sources(folder), folder) == before
    aside = folder / "tests" / "model.proto"
    aside.parent.mkdir()
    (folder / "model.proto").rename(aside)
    (folder / "model.proto").symlink_to(aside)
    assert digest(sources(folder), folder) == before


def test_links_that_lead_nowhere_or_round_are_told(folder: Path) -> None:
    link = folder / "more"
    link.symlink_to(folder)
    with pytest.raises(SchemaError, match="more: is a link to a directory that contains it"):
        sources(folder)
    link.unlink()
    link.symlink_to(folder / "nothing")
    with pytest.raises(SchemaError, match="more: is a broken link"):
        sources(folder)


CODE_WITH = """\
{remark}
def up(old):{trailing}
    {docstring}
    return f"{{old.name!r:>{{4}}}} # {value}"
"""
WORDS = {"remark": "# GPL", "trailing": "", "docstring": "'Old.'", "value": "x"}


def meaning_of(folder: Path, code: bytes) -> bytes:
    (folder / "__init__.py").write_bytes(code)
    return meaning(sources(folder), folder)


def test_comments_licences_docstrings_and_blank_lines_mean_nothing(folder: Path) -> None:
    plain = CODE_WITH.format(**WORDS)
    before = meaning_of(folder, plain.encode())
    others = {
        "remark": '"""MIT."""\n\n#\n\n',
        "trailing": "  # new",
        "docstring": '"""New.\n\n    It is."""',
        "value": "x",
    }
    assert meaning_of(folder, CODE_WITH.format(**others).encode()) == before
    assert meaning_of(folder, b"\xef\xbb\xbf" + plain.encode().replace(b"\n", b"\r\n")) == before
    assert meaning_of(folder, CODE_WITH.format(**{**WORDS, "value": "y"}).encode()) != before
    assert meaning_of(folder, plain.replace("    return", "return").encode()) != before
    model = folder / "model.proto"
    meaning_of(folder, plain.encode())
    model.write_bytes(b'// A licence.\nsyntax  =\n"proto3"/* so */;\n')
    assert meaning(sources(folder), folder) == before
    model.write_bytes(b'syntax = "proto3 ";\n')
    assert meaning(sources(folder), folder) != before


def test_the_meaning_of_a_folder_is_the_same_in_every_version_of_python(folder: Path) -> None:
    words = {**WORDS, "remark": "import os", "docstring": "x = rf'{1}' 'b'"}
    found = meaning_of(folder, CODE_WITH.format(**words).encode())
    assert found.hex() == "cdf6a2cdb28a0291736cc170d3d81abfd698e33028427a46a1fdb0d4148d2c5d"
