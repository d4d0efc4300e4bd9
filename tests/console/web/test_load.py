"""The pages that load files and test data: over real HTTP, at a real server."""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from everlog.console.web.jobs import Job
from everlog.console.web.setup import Setup
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.testing import at_version
from flights.migrations.v20260209154500_airport_time_zones import AIRLINES, AIRPORTS
from tests.console.web.conftest import ROLES, SOURCE, TOKENS
from tests.console.web.visitor import Answer, Visitor, console_of

LOAD = "/db/flights/load"
AIRLINE_CSV = 'Carrier,Full name,note\nZ1,"Zed, the first",x\nZ2,Zed Two,\n9E,"Endeavor Air, Inc.",y\n'
LIMIT = 1 << 20
FIRST, PLANES, NEWEST = 20260105093000, 20260119140000, 20260209154500


@pytest.fixture
def visitor(flights: EmbeddedDatabase) -> Iterator[Visitor]:
    setup = Setup(migrations={"flights": SOURCE}, upload_bytes=LIMIT)
    with console_of({"flights": flights}, setup=setup, migrations={"flights": SOURCE}) as web:
        found = Visitor(web.url)
        found.get(LOAD)
        yield found


def sent(visitor: Visitor, name: str, content: bytes, table: str = "airlines", csrf: str = "") -> Answer:
    """Send a file, as a browser does."""
    parts = [("csrf", csrf or visitor.csrf), ("table", table)]
    body = b"".join(
        f'--x\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in parts
    )
    body += f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'.encode()
    body += b"Content-Type: text/csv\r\n\r\n" + content + b"\r\n--x--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=x", "Origin": visitor.url}
    return visitor.ask("POST", f"{LOAD}/file", body, kind)


def looked_at(visitor: Visitor, name: str, content: bytes, table: str = "airlines") -> str:
    """Send a file, and return the address of its page."""
    answer = sent(visitor, name, content, table)
    assert answer.status == 303, answer.words
    return answer.headers["location"]


def ended(visitor: Visitor, answer: Answer) -> Any:
    """Return a job when it has ended."""
    assert answer.status == 303, answer.words
    url = answer.headers["location"]
    until = time.monotonic() + 60
    while (job := visitor.json(url))["running"]:
        assert time.monotonic() < until
        time.sleep(0.01)
    return job


def test_a_csv_is_looked_at_mapped_and_loaded_once(visitor: Visitor, flights: EmbeddedDatabase) -> None:
    url = looked_at(visitor, "lines.csv", AIRLINE_CSV.encode())
    assert [one["field"] for one in visitor.json(url)["columns"]] == ["carrier", "", ""]
    page = visitor.get(f"{url}&{urlencode([('c', 'carrier'), ('c', 'name'), ('c', '')])}")
    assert "new Z1 Zed, the first" in page.words
    assert "replaces 9E Endeavor Air, Inc." in page.words
    assert "all 3 rows checked" in page.words
    assert visitor.json(f"{url}&was=airports&c=faa")["columns"][0]["field"] == "carrier"
    assert "expected 3 fields, one for each column, found 1" in visitor.get(f"{url}&c=name").words
    assert flights.get(AIRLINES, "Z1") is None
    id = re.search(r"id=([\w-]+)", url)
    assert id is not None
    form = {"id": id[1], "table": "airlines", "null": "", "reason": "new lines; ticket 7"}
    body = urlencode([("csrf", visitor.csrf), *form.items(), ("c", "carrier"), ("c", "name"), ("c", "")])
    kind = {"Content-Type": "application/x-www-form-urlencoded", "Origin": visitor.url}
    job = ended(visitor, visitor.ask("POST", f"{LOAD}/import", body, kind))
    assert (job["state"], job["result"]) == ("Done", "3 rows of airlines loaded, in 1 commit.")
    row, head = flights.get(AIRLINES, "Z1"), flights.head
    assert row is not None
    assert row.name == "Zed, the first"
    entry = next(flights.past.log(after=head - 1))
    assert (entry.reason, entry.client) == ("new lines; ticket 7", "console")
    job = ended(visitor, visitor.ask("POST", f"{LOAD}/import", body, kind))
    assert job["result"] == "3 rows of airlines loaded, 3 of them before, in 0 commits."
    assert flights.head == head
    assert "lines.csv" in visitor.get(LOAD).words
    assert f'href="{LOAD}"' in visitor.get("/db/flights/tables").text


def test_what_does_not_fit_is_named_by_line(visitor: Visitor, flights: EmbeddedDatabase) -> None:
    lines = ("faa,name,lat,alt", "A,1,1.5,3", "B,2,north,3", ",3,1,1", "C,4,1,<b>", "D,5,1", "E,6,1,2", "")
    content = "\n".join(lines).encode()
    url = looked_at(visitor, "air.csv", content, "airports")
    found = visitor.json(url)
    places = [one.partition(": ")[0] for one in found["wrong"]]
    assert places == ["air.csv:3", "air.csv, row 3", "air.csv:5", "air.csv:6"]
    assert "column 3 (lat): expected a double" in found["wrong"][0]
    page = visitor.get(url)
    assert "new A 1" in page.words
    assert "4 rows" in page.words
    assert "<b>" not in page.text
    form = [("c", one["field"]) for one in found["columns"]]
    head = flights.head
    fields = {"id": found["file"]["id"], "table": "airports", "null": "", "reason": "r"}
    body = urlencode([("csrf", visitor.csrf), *fields.items(), *form])
    kind = {"Content-Type": "application/x-www-form-urlencoded", "Origin": visitor.url}
    job = ended(visitor, visitor.ask("POST", f"{LOAD}/import", body, kind))
    assert job["state"] == "Failed"
    assert "air.csv:3: column 3 (lat)" in job["error"]
    assert "load the file again to resume" in job["error"]
    assert flights.head == head


def test_json_lines_and_parquet_are_loaded(visitor: Visitor, flights: EmbeddedDatabase) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"code": ["Z3"], "name": ["three"]}), buffer)
    lines = b'{"carrier": "Z4", "name": "four"}\n{"carrier": 5}\n'
    for name, content, columns, expected in (
        ("p.parquet", buffer.getvalue(), [("c", "carrier"), ("c", "name")], "Z3"),
        ("l.jsonl", lines, [], "Z4"),
    ):
        page = visitor.json(f"{looked_at(visitor, name, content)}&{urlencode(columns)}")
        assert page["problem"] == ""
        fields = {"id": page["file"]["id"], "table": "airlines", "null": "", "reason": "r"}
        body = urlencode([("csrf", visitor.csrf), *fields.items(), *columns])
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Origin": visitor.url}
        ended(visitor, visitor.ask("POST", f"{LOAD}/import", body, kind))
        assert (flights.get(AIRLINES, expected) is None) == (name == "l.jsonl")


def test_a_load_is_stopped_and_resumes(
    visitor: Visitor, flights: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    csv.writer(out).writerows([("faa", "name"), *((f"Q{n:05}", f"airport {n}") for n in range(20_000))])
    url = looked_at(visitor, "many.csv", out.getvalue().encode(), "airports")
    page = visitor.json(url)
    assert not page["wrong"]
    form = {"id": page["file"]["id"], "table": "airports", "null": "", "reason": "many"}

    def stopping(job: Any, *words: Any) -> None:
        job.stop()
        original(job, *words)

    original = Job.report
    monkeypatch.setattr(Job, "report", stopping)
    body = urlencode([("csrf", visitor.csrf), *form.items(), ("c", "faa"), ("c", "name")])
    kind = {"Content-Type": "application/x-www-form-urlencoded", "Origin": visitor.url}
    job = ended(visitor, visitor.ask("POST", f"{LOAD}/import", body, kind))
    assert job["state"] == "Stopped"
    assert flights.get(AIRPORTS, "Q19999") is None
    before = flights.count(AIRPORTS)
    monkeypatch.setattr(Job, "report", original)
    job = ended(visitor, visitor.ask("POST", f"{LOAD}/import", body, kind))
    assert job["state"] == "Done"
    assert re.search(r"20,000 rows of airports loaded, [\d,]+ of them before", job["result"])
    assert flights.get(AIRPORTS, "Q19999") is not None
    assert flights.count(AIRPORTS) > before


def test_test_data_needs_the_name_of_the_database_and_none_in_production(
    visitor: Visitor, flights: EmbeddedDatabase
) -> None:
    page = visitor.get(f"{LOAD}/version/{NEWEST}")
    assert "Type flights to confirm" in page.words
    fields = {"scale": "1", "seed": "7", "reason": "tests"}
    refused = visitor.post(f"{LOAD}/testdata", None, typed="flight", **fields)
    assert (refused.status, "type it exactly" in refused.words) == (400, True)
    assert (
        "expected scale as an integer"
        in visitor.post(f"{LOAD}/testdata", None, typed="flights", **{**fields, "scale": "x"}).words
    )
    job = ended(visitor, visitor.post(f"{LOAD}/testdata", None, typed="flights", **fields))
    assert job["state"] == "Done", job
    assert "of flights" in job["result"]
    flights.admin.set_production(True, actor="ann", reason="it is")
    assert "It refuses test data" in visitor.get(LOAD).words
    refused = visitor.post(f"{LOAD}/testdata", None, typed="flights", **fields)
    assert (refused.status, "is in production, and refuses test data" in refused.words) == (400, True)


def test_the_data_of_each_version_is_shown_as_it_would_be(visitor: Visitor) -> None:
    found = {one["version"]: one for one in visitor.json(LOAD)["versions"]}
    assert list(found) == sorted(found, reverse=True)
    assert len(found) == 6
    assert (found[FIRST]["bootstrap"], found[FIRST]["testdata"]) == (["bootstrap.py"], True)
    assert (found[PLANES]["bootstrap"], found[PLANES]["loaded"]) == ([], [])
    loaded = {one["table"]: one for one in found[NEWEST]["loaded"]}
    assert (loaded["flights"]["rows"], loaded["flights"]["finished"]) == (1000, True)
    assert (loaded["flights"]["scale"], loaded["flights"]["seed"]) == (1, 0)
    page = visitor.get(f"{LOAD}/version/{FIRST}")
    assert "Bootstrap rows of airports" in page.words
    assert "Lansdowne Airport" in page.words  # the first bootstrap row
    assert "First rows of airports, as they would be 100 rows" in page.words
    page = visitor.get(f"{LOAD}/version/{PLANES}?scale=2&seed=3")
    assert "First rows of planes, as they would be 40 rows" in page.words
    assert "No bootstrap rows" in page.words
    assert visitor.json(f"{LOAD}/version/{PLANES}?scale=2")["rows_made"] == {"planes": 40, "weather": 144}
    assert "expected scale as an integer" in visitor.get(f"{LOAD}/version/{PLANES}?scale=0").words
    assert visitor.get(f"{LOAD}/version/7").status == 404


def test_test_data_of_an_older_version_is_loaded_where_it_fits(
    visitor: Visitor, flights: EmbeddedDatabase
) -> None:
    fields = {"scale": "2", "seed": "3", "typed": "flights", "reason": "planes to test with"}
    visitor.get(LOAD)
    job = ended(visitor, visitor.post(f"{LOAD}/testdata", None, version=str(PLANES), **fields))
    assert (job["state"], job["result"]) == ("Done", "40 rows of planes, 144 rows of weather loaded.")
    done = [one for one in flights.admin.testdata() if one.version == PLANES]
    assert [(one.table, one.rows, one.scale, one.seed) for one in done] == [
        ("planes", 40, 2, 3),
        ("weather", 144, 2, 3),
    ]
    page = visitor.get(f"{LOAD}/version/{PLANES}?scale=2&seed=3")
    assert "40 rows of planes scale 2, seed 3" in page.words
    assert "replaces T00000" in page.words


def test_test_data_of_a_pending_version_is_shown_and_not_loaded() -> None:
    with at_version(PLANES, SOURCE) as db:
        assert isinstance(db, EmbeddedDatabase)
        setup = Setup(migrations={"flights": SOURCE})
        with console_of({"flights": db}, setup=setup, migrations={"flights": SOURCE}) as web:
            visitor = Visitor(web.url)
            page = visitor.get(f"{LOAD}/version/{NEWEST}")
            assert "First rows of planes, as they would be 20 rows" in page.words
            assert "loaded with the migration" in page.words
            assert "apply its migration first" in page.words
            assert "This test data cannot be loaded" in page.words
            assert "Type flights" not in page.words
            fields = {"scale": "1", "seed": "0", "typed": "flights", "reason": "r"}
            head = db.head
            job = ended(visitor, visitor.post(f"{LOAD}/testdata", None, version=str(NEWEST), **fields))
            assert (job["state"], db.head) == ("Failed", head)
            assert "apply its migration first" in job["error"]


@pytest.mark.parametrize(
    ("name", "content", "status", "words"),
    [
        ("a.txt", b"x", 400, "a name that ends in .csv, .jsonl, .ndjson, .parquet"),
        ("", b"", 400, "expected a file, found none"),
        ("a.csv", b"x" * (LIMIT + (128 << 10)), 413, "expected a file of at most 1 MiB"),
    ],
)
def test_a_file_that_is_none_is_refused(
    visitor: Visitor, name: str, content: bytes, status: int, words: str
) -> None:
    answer = sent(visitor, name, content)
    assert answer.status == status
    assert words in answer.words


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "expected a header of field names, found nothing"),
        (b"carrier,carrier\na,b\n", "occurs twice in the header"),
        (b'carrier,name\n"a,b\n', "not CSV"),
        (b"carrier\n\xff\n", "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_beside_it(visitor: Visitor, content: bytes, words: str) -> None:
    page = visitor.get(looked_at(visitor, "a.csv", content))
    assert page.status == 200
    assert words in page.words


def test_files_are_of_their_sender_and_forms_need_a_token(flights: EmbeddedDatabase) -> None:
    with console_of({"flights": flights}, tokens=TOKENS, roles=ROLES) as web:
        ann, other, bob = Visitor(web.url), Visitor(web.url), Visitor(web.url)
        for visitor, name in ((ann, "ann"), (other, "ann"), (bob, "bob")):
            visitor.sign_in(TOKENS[name])
            visitor.get(LOAD)
        assert sent(ann, "a.csv", b"carrier\nX\n", csrf="0" * 64).status == 403
        url = looked_at(ann, "a.csv", b"carrier\nX\n")
        assert ann.get(url).status == 200
        assert other.get(url).status == 200  # after another sign-in
        assert bob.get(url).status == 404
        assert "You may not load" in bob.get(LOAD).words
        assert sent(bob, "a.csv", b"carrier\nX\n").status == 403
        assert bob.post(
            f"{LOAD}/testdata", None, scale="1", seed="1", typed="flights", reason="r"
        ).status in {
            400,
            403,
        }


def test_files_are_bounded_and_removed(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch, check_removed: Callable[[], None]
) -> None:
    urls = [looked_at(visitor, f"{n}.csv", b"carrier\nX\n") for n in range(11)]
    assert visitor.get(urls[0]).status == 404
    assert visitor.get(urls[10]).status == 200


@pytest.fixture
def check_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield lambda: None
    assert len(list(tmp_path.glob("everlog-console-*/*"))) <= 10
