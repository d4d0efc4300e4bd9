"""Traces: one trace from a client through the server to the commit, and on to followers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import everlog
from everlog.rpc import traces
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.database import Database
from everlog.store.errors import ConflictError, OpenError
from tests.console.served import serving
from tests.store.models import ITEMS, Item, declare

ROOT = Path(__file__).parents[2]


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """The spans of this process."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traces.use(provider)
    yield exporter
    traces.stop()


def opened(path: Path) -> EmbeddedDatabase:
    db = everlog.open(path)
    assert isinstance(db, EmbeddedDatabase)
    return db


def by_name(exporter: InMemorySpanExporter) -> dict[str, Any]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_call_a_commit_and_its_steps_are_one_trace(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db:
        declare(db, ITEMS)
        with Server({"shop": db}) as server, RemoteDatabase(server.url("shop")) as remote:
            spans.clear()
            seq = remote.put(ITEMS, Item(id=1, text="Wilhelmina")).seq
        found: list[Any] = [span for span in spans.get_finished_spans() if "Turn" not in span.name]
        client, called = (span for span in found if span.name == "Store/Commit")
        if client.kind.name == "SERVER":
            client, called = called, client
        assert (client.kind.name, called.kind.name) == ("CLIENT", "SERVER")
        assert called.parent.span_id == client.context.span_id
        names = by_name(spans)
        commit = names["commit"]
        assert commit.parent.span_id == called.context.span_id
        assert commit.attributes["everlog.seq"] == seq
        assert commit.attributes["everlog.group_size"] == 1
        steps = [names[f"commit {step}"] for step in ("wait", "group", "sync", "project")]
        assert {step.parent.span_id for step in steps} == {commit.context.span_id}
        one = {span.context.trace_id for span in (client, called, commit, *steps)}
        assert one == {client.context.trace_id}
        for before, after in pairwise(steps):
            assert before.start_time <= before.end_time <= after.end_time
        assert called.attributes["everlog.database"] == "shop"
        assert "Wilhelmina" not in "".join(span.to_json() for span in found)
        correlation = db.log.commit(seq).correlation_id
        assert correlation == traces._traceparent(commit.context)  # noqa: SLF001


def test_a_stream_of_responses_is_a_span_of_the_client(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db:
        declare(db, ITEMS)
        db.put(ITEMS, Item(id=1))
        with Server({"shop": db}) as server, RemoteDatabase(server.url("shop")) as remote:
            assert [row.id for row in remote.scan(ITEMS)] == [1]
            while len(found := [one for one in spans.get_finished_spans() if one.name == "Store/Scan"]) < 2:
                threading.Event().wait(0.01)
    kinds: dict[str, Any] = {one.kind.name: one for one in found}
    assert kinds["SERVER"].parent.span_id == kinds["CLIENT"].context.span_id


def test_a_correlation_id_of_ones_own_stays(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    with opened(tmp_path / "db") as db:
        declare(db, ITEMS)
        seq = db.put(ITEMS, Item(id=1), correlation_id="order 7").seq
        assert db.log.commit(seq).correlation_id == "order 7"
    assert by_name(spans)["commit"].attributes["everlog.correlation_id"] == "order 7"


def test_a_refused_commit_is_an_error_of_its_class(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    with opened(tmp_path / "db") as db:
        declare(db, ITEMS)
        tx = db.transaction()
        tx.get(ITEMS, 1)
        db.put(ITEMS, Item(id=1))
        tx.put(ITEMS, Item(id=1))
        with pytest.raises(ConflictError):
            tx.commit()
    (failed,) = (span for span in spans.get_finished_spans() if span.status.status_code.name == "ERROR")
    assert failed.name == "commit"
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == "ConflictError"


def test_what_is_not_sampled_leaves_no_trace_in_the_log(tmp_path: Path) -> None:
    traces.use(TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False))
    try:
        with opened(tmp_path / "db") as db:
            declare(db, ITEMS)
            assert db.log.commit(db.put(ITEMS, Item(id=1)).seq).correlation_id == ""
    finally:
        traces.stop()


def test_nothing_is_traced_unless_it_is_asked_for(tmp_path: Path) -> None:
    code = (
        "import sys, everlog\n"
        "from tests.store.models import ITEMS, Item, declare\n"
        "with everlog.open(sys.argv[1]) as db:\n"
        "    declare(db, ITEMS); db.put(ITEMS, Item(id=1))\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "db")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "parent", ["", "x", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "ff-" + "1" * 49, "é" * 55]
)
def test_an_invalid_parent_begins_a_new_trace(
    tmp_path: Path, spans: InMemorySpanExporter, parent: str
) -> None:
    tracing = traces.tracing
    assert tracing is not None
    with tracing.server("Store/Get", {"traceparent": parent}, ""):
        pass
    assert spans.get_finished_spans()[-1].parent is None


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("collector:4318", "expected where to send traces"),
        ("file:", "expected where"),
        ("file:/no/where", "cannot write"),
    ],
)
def test_a_wrong_target_is_refused(target: str, says: str) -> None:
    with pytest.raises(OpenError, match=says):
        traces.start(target)
    assert traces.tracing is None


def test_the_missing_library_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(OpenError, match=r"pip install 'everlog\[otel\]'"):
        traces.start("http://127.0.0.1:4318")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


CLIENT = """
import sys
from everlog.rpc import traces
from everlog.rpc.client.database import RemoteDatabase
from tests.store.models import ITEMS, Item

traces.start(f"file:{sys.argv[2]}")
with RemoteDatabase(sys.argv[1]) as db:
    print(db.put(ITEMS, Item(id=7, text="x")).seq)
traces.stop()
"""


def test_three_processes_make_one_trace_and_the_follower_is_linked_to_it(tmp_path: Path) -> None:
    with Database(tmp_path / "shop.db") as db:
        declare(db, ITEMS)
    client, server, follower = (tmp_path / f"{name}.jsonl" for name in ("client", "server", "follower"))
    with serving(f"shop=file:{tmp_path / 'shop.db'}", "--traces", f"file:{server}") as served:
        command = [sys.executable, "-c", CLIENT, served.url, str(client)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        seq = int(done.stdout)
        follow = ["follow", "-u", served.url, "--to", f"sqlite:{tmp_path / 'copy.db'}", "--once"]
        subprocess.run(
            [sys.executable, "-m", "everlog.console", *follow],
            env=os.environ | {"EVERLOG_TRACES": f"file:{follower}"},
            check=True,
        )
    spans = defaultdict(list)
    for path in (client, server, follower):
        for span in read(path):
            spans[span["name"], span["kind"].removeprefix("SpanKind.")].append(span)
    (called,) = spans["Store/Commit", "CLIENT"]
    (answered,) = spans["Store/Commit", "SERVER"]
    (commit,) = spans["commit", "INTERNAL"]
    assert answered["parent_id"] == called["context"]["span_id"]
    assert commit["parent_id"] == answered["context"]["span_id"]
    assert commit["context"]["trace_id"] == called["context"]["trace_id"]
    assert commit["attributes"]["everlog.seq"] == seq
    assert {("commit sync", "INTERNAL"), ("commit wait", "INTERNAL")} <= spans.keys()
    applied = [span for span in spans["follower apply", "CONSUMER"] if span["links"]]
    (link,) = (one for span in applied for one in span["links"])
    assert link["context"]["span_id"] == commit["context"]["span_id"]
    assert link["context"]["trace_id"] == called["context"]["trace_id"]
    correlation = commit["attributes"]["everlog.correlation_id"]
    assert any(correlation in span["attributes"]["everlog.correlation_id"] for span in applied)


def test_spans_are_sent_to_a_collector(tmp_path: Path) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    from tests.rpc.collector import Collector

    with Collector() as collector:
        code = CLIENT.replace('f"file:{sys.argv[2]}"', "sys.argv[2]")
        with EmbeddedDatabase(tmp_path / "db") as db:
            declare(db, ITEMS)
            with Server({"shop": db}) as server:
                command = [sys.executable, "-c", code, server.url("shop"), collector.url]
                subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        names = [
            span.name
            for path, body in collector.requests
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if path == "/v1/traces"
        ]
    assert "Store/Commit" in names
