import sys
from pathlib import Path

import pytest

from everlog.audit import merkle
from everlog.audit.merkle import entry_of
from everlog.audit.note import Signer
from everlog.audit.proof import Checkpoint, Inclusion
from everlog.proto import log_pb2
from everlog.store import record
from tests.audit.test_merkle import nodes_of
from tests.docs.session import Session, blocks

PAGE = Path(__file__).parent.parent.parent / "docs" / "proofs.md"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_page_of_proofs_does_what_it_says(tmp_path: Path) -> None:
    folder = tmp_path / "payments"
    folder.mkdir()
    with Session(folder) as session:
        session.follow(PAGE)


def test_the_auditor_s_program_verifies_any_record_of_any_log_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (text,) = (one.text for one in blocks(PAGE) if one.file == "auditor.py")
    program = compile(text, "auditor.py", "exec")
    proof, key = tmp_path / "proof", tmp_path / "key"
    monkeypatch.setattr(sys, "argv", ["auditor.py", str(proof), str(key)])
    signer = Signer.generate("example.com/log")
    key.write_text(f"{signer.verifier}\n")
    records = [record.unframe(record.frame(log_pb2.Commit(seq=seq)), seq) for seq in range(1, 17_001)]
    tried = {
        1: [0],
        2: [0, 1],
        7: range(7),
        300: range(0, 300, 7),
        17_000: [127, 128, 16_382, 16_383, 16_999],
    }
    for size, indexes in tried.items():
        nodes = nodes_of([entry_of(one) for one in records[:size]])
        note = Checkpoint("example.com/log", size, merkle.root(nodes, size)).sign(signer)
        for index in indexes:
            shown = Inclusion(index, records[index], merkle.inclusion(nodes, index, size), note)
            proof.write_text(shown.text())
            exec(program, {})  # noqa: S102  the page's own
            assert capsys.readouterr().out == f"record {index + 1} of {size} is in example.com/log\n"
            for wrong in (
                shown._replace(leaf_index=index + 1 if index + 1 < size else 0),
                shown._replace(record=records[(index + 1) % size] + b"\x2a\x01a"),
            ):
                proof.write_text(wrong.text())
                if wrong.text() != shown.text():
                    with pytest.raises(AssertionError):
                        exec(program, {})  # noqa: S102
