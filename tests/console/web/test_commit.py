"""The page of a commit: causes, proofs; and pages of very large commits, rows and models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everlog.audit import note as notes
from everlog.audit.prover import LocalProver
from everlog.audit.prover import checkpoint as sign
from everlog.proto import log_pb2
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.database import Database
from everlog.store.schema.codec import UINT64
from everlog.store.schema.evolve import evolve
from everlog.store.schema.table import Field, Table
from everlog.store.tx.transaction import new_commit_id
from flights.migrations.v20260209154500_airport_time_zones import AIRPORTS, Airport
from tests.console.conftest import Run
from tests.console.web.conftest import TOKENS
from tests.console.web.visitor import Visitor, console_of
from tests.store.documents import VERSION, model

DB = "/db/flights"
PAGE_BYTES_MAX, LARGE = 4 << 20, (4 << 20) - 1000
WIDE = model("wide", ", ".join(["id 1 uint64", *(f"f{number} {number} string" for number in range(2, 1202))]))
WIDES: Table[Any, int] = Table("wides", WIDE, key=Field(WIDE, "id", 1, UINT64))


def put(db: EmbeddedDatabase, name: str, **about: Any) -> int:
    with db.transaction(actor="ann", **about) as tx:
        tx.put(AIRPORTS, Airport(faa="ZZZ", name=name))
    return db.head


def test_causes_and_consequences_are_linked(flights: EmbeddedDatabase) -> None:
    id = new_commit_id()
    first = put(flights, "first", correlation_id="c-1", commit_id=id, reason="the cause")
    put(flights, "other", correlation_id="c-2")
    second = put(flights, "second", correlation_id="c-1", causation_id=id.hex(), commit_id=new_commit_id())
    third = put(flights, "third", correlation_id="c-1", causation_id=str(second))
    with console_of({"flights": flights}) as web:
        visitor = Visitor(web.url)
        found = visitor.json(f"{DB}/log/{second}")
        assert [(one["seq"], one["relation"]) for one in found["around"]] == [
            (first, "caused this commit"),
            (second, "this commit"),
            (third, "caused by this commit"),
        ]
        page = visitor.get(f"{DB}/log/{second}")
        assert "“the cause” caused this commit" in page.words
        assert f'href="{DB}/log/{first}"' in page.text
        assert visitor.json(f"{DB}/log/{second - 1}")["around"] == []


@pytest.mark.parametrize("id", ["1", "99", "9" * 40, "²"])
def test_a_cause_without_a_correlation_is_linked_if_it_is_an_earlier_commit(
    flights: EmbeddedDatabase, id: str
) -> None:
    seq = put(flights, "second", causation_id=id)
    with console_of({"flights": flights}) as web:
        page = Visitor(web.url).get(f"{DB}/log/{seq}")
    assert (f'href="{DB}/log/1">commit 1</a>' in page.text) == (id == "1")
    assert (id in page.words) == (len(id) < 20)  # a long one is shortened


def test_a_proof_is_downloaded_and_verified(flights: EmbeddedDatabase, everlog: Run, here: Path) -> None:
    seq = put(flights, "proven")
    signer = notes.Signer.generate("example.com/flights")
    with console_of(
        {"flights": flights}, tokens=TOKENS, roles={"ann": ("owner",), "bob": ("reader",)}
    ) as web:
        ann, bob = Visitor(web.url), Visitor(web.url)
        ann.sign_in(TOKENS["ann"])
        bob.sign_in(TOKENS["bob"])
        before = ann.get(f"{DB}/log/{seq}/proof")
        assert "No checkpoint covers this commit" in before.words
        assert "everlog checkpoint" in before.words
        text, _ = sign(LocalProver(flights), signer)
        assert f"{DB}/log/{seq}/proof" in ann.get(f"{DB}/log/{seq}").text
        page = ann.get(f"{DB}/log/{seq}/proof")
        assert "It covers" in page.words
        found = ann.json(f"{DB}/log/{seq}/proof")
        assert (found["covering"]["size"], found["covering"]["seq"]) == (seq, flights.head)
        answer = ann.get(f"{DB}/log/{seq}/proof/{seq}.tlog-proof")
        assert answer.headers["content-disposition"] == f'attachment; filename="{seq}.tlog-proof"'
        assert found["proof"] == answer.text
        (here / "file").write_text(answer.text)
        origin = notes.split(text)[0].partition("\n")[0]
        said = everlog("verify", "file", "--signed-by", str(signer.verifier), "--origin", origin)
        assert f"Verified: record {seq} is in the log {origin}" in said.out
        assert ann.get(f"{DB}/log/{seq}/proof/x").status == 404
        assert ann.get(f"{DB}/log/999999/proof").status == 404
        assert "/proof" not in bob.get(f"{DB}/log/{seq}").text
        for path in ("proof", f"proof/{seq}.tlog-proof"):
            assert bob.get(f"{DB}/log/{seq}/{path}").status == 403


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[tuple[Visitor, Database]]:
    """Yield a database with 1,200 fields in a table, and commits of several MiB."""
    with Database(tmp_path / "wide.db") as db:
        schema = evolve(log_pb2.Schema(), VERSION, (WIDES,))
        finished = log_pb2.Migration.FINISHED
        db.apply_migration(log_pb2.Migration(step=finished, version=VERSION, name="wide", schema=schema))
        full = {f"f{number}": "x" * 50 for number in range(2, 1202)}
        with db.transaction(actor="ann", reason="many rows") as tx:
            for id in range(120):
                tx.put(WIDES, WIDE(id=id, **full))
        with db.transaction(actor="ann", reason="all fields") as tx:
            for id in range(60):
                tx.put(WIDES, WIDE(id=id, **dict.fromkeys(full, "y" * 50)))
        with db.transaction(actor="ann", reason="large values") as tx:
            for id in (500, 501):
                tx.put(WIDES, WIDE(id=id, f2="z" * LARGE, f3="after"))
        with console_of({"wide": db}) as web:
            yield Visitor(web.url), db


@pytest.mark.long
def test_pages_of_large_commits_rows_and_models_are_bounded_and_say_what_they_leave_out(
    wide: tuple[Visitor, Database],
) -> None:
    visitor, db = wide
    assert db.log.commit(db.head - 1).ByteSize() > 3 << 20
    for path, words in (
        (f"/db/wide/log/{db.head - 2}", "The first 50 of 120 rows are shown. everlog log --after"),
        (f"/db/wide/log/{db.head - 1}", "1,100 more fields, not shown here"),
        (f"/db/wide/log/{db.head}", "…"),
        ("/db/wide/tables/wides/row?k=1", "1,101 more fields, not shown here"),
        ("/db/wide/tables/wides/row?k=500", "…"),
        ("/db/wide/tables/wides", "more fields in the page of each row"),
        ("/db/wide/tables/wides?q=nowhere+%3D+1", "there is no field 'nowhere'"),
        ("/db/wide/tables/wides/new", "Insert a row"),
        ("/db/wide/tables/wides/row/edit?k=1", "Change 1"),
        ("/db/wide/tables/wides/row/delete?k=1", "Delete 1"),
        ("/db/wide/log", "many rows"),
        ("/db/wide/log?key=wides%2F1", "all fields"),
    ):
        page = visitor.get(path)
        assert page.status == 200, (path, page.words[-300:])
        assert words in page.words, path
        assert len(page.text) < PAGE_BYTES_MAX, (path, len(page.text))
    refused = visitor.get("/db/wide/tables/wides/row/edit?k=500")
    assert refused.status == 400
    assert "expected a row of at most 2 MiB for a form" in refused.words
    assert visitor.json("/db/wide/tables/wides/row?k=500")["row"]["f2"] == "z" * LARGE


@pytest.mark.long
def test_many_large_rows_are_read_in_parts(wide: tuple[Visitor, Database]) -> None:
    visitor, db = wide
    for id in range(600, 606):
        db.put(WIDES, WIDE(id=id, f2="z" * LARGE), reason="large")
    found, resume, pages = list[str](), "", 0
    while True:
        page = visitor.json(f"/db/wide/tables/wides?q=id+%3E%3D+600&resume={resume}")
        found += [row["id"] for row in page["found"]]
        pages, resume = pages + 1, str(page["next"])
        if not resume:
            break
    assert found == [str(id) for id in range(600, 606)]
    assert pages > 1
    log = visitor.json("/db/wide/log")
    assert 0 < len(log["commits"]) <= 8
    assert log["looked"] == log["commits"][-1]["seq"]
