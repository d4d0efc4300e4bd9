import hashlib
from pathlib import Path

import pytest

from everlog.migrations.digest import digest, sources

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
    assert digest(sources(folder)) == expected
    assert expected.hex() == "6c4821fc246b356d05740d822ad2cc6a7e2ed7e103dab6f1986271e170334221"


@pytest.mark.parametrize(
    "name", ["bootstrap.py", "bootstrap_airports.csv", "helpers/names.py", "transform.py"]
)
def test_a_file_that_can_change_the_database_counts(folder: Path, name: str) -> None:
    before = digest(sources(folder))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("JFK")
    added = digest(sources(folder))
    (folder / name).write_text("EWR")
    assert len({before, added, digest(sources(folder))}) == 3


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
    before = digest(sources(folder))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("anything")
    assert digest(sources(folder)) == before


def test_a_checkout_with_other_line_ends_is_no_edit(folder: Path) -> None:
    before = digest(sources(folder))
    (folder / "model.proto").write_bytes(MODEL.replace(b"\n", b"\r\n"))
    assert digest(sources(folder)) == before


def test_content_that_moves_from_one_file_to_the_next_is_an_edit(folder: Path) -> None:
    (folder / "a").write_text("12")
    (folder / "b").write_text("3")
    before = digest(sources(folder))
    (folder / "a").write_text("1")
    (folder / "b").write_text("23")
    assert digest(sources(folder)) != before
