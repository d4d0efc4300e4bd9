"""The dashboard and the alert rules of examples/operate: every metric and label in them exists."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everlog.rpc.server.metrics import METRICS

OPERATE = Path(__file__).parents[2] / "examples" / "operate"
ALERTS, DASHBOARD = OPERATE / "alerts.yml", OPERATE / "dashboard.json"
PROMTOOL = shutil.which("promtool")
NAMES = {one.name: one for one in METRICS}
SUFFIXES = ("_bucket", "_sum", "_count")
OF_PROMETHEUS = {"job", "instance", "le"}
OTHERS = {"process_resident_memory_bytes", "process_cpu_seconds_total", "up"}

_SERIES = re.compile(r"\b(everlog_\w+)(?:\{([^}]*)\})?")
_BY = re.compile(r"\bby \(([^)]*)\)")


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return found


def panels() -> list[dict[str, Any]]:
    return [one for one in dashboard()["panels"] if one["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Where each query is, and the query."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']!r}", target["expr"]
    for one in dashboard()["templating"]["list"]:
        if one["type"] == "query":
            yield f"variable {one['name']}", one["definition"]
    for line in ALERTS.read_text("utf-8").splitlines():
        if line.strip().startswith("expr: "):
            yield "alerts.yml", line.strip().removeprefix("expr: ")


def metric_of(series: str) -> str:
    """The name of the metric that has this series."""
    for suffix in SUFFIXES:
        name = series.removesuffix(suffix)
        if name != series and name in NAMES and NAMES[name].kind == "histogram":
            return name
    return series


def test_every_metric_and_label_exists() -> None:
    checked = 0
    for where, query in queries():
        known = set(OF_PROMETHEUS)
        for series, matchers in _SERIES.findall(query):
            name = metric_of(series)
            assert name in NAMES, f"{where}: {series}"
            labels = {*NAMES[name].labels, *OF_PROMETHEUS}
            assert set(re.findall(r"(\w+)\s*[=!]~?", matchers)) <= labels, f"{where}: {query}"
            known |= labels
            checked += 1
        for by in _BY.findall(query):
            assert {one.strip() for one in by.split(",")} <= known, f"{where}: {query}"
        assert _SERIES.search(query) or any(one in query for one in OTHERS), f"{where}: {query}"
    assert checked > 60


def test_a_histogram_is_queried_by_its_series_and_a_counter_as_a_rate() -> None:
    for where, query in queries():
        for series, _ in _SERIES.findall(query):
            metric = NAMES[metric_of(series)]
            assert (metric.kind == "histogram") == (series != metric.name), f"{where}: {query}"
            if metric.kind != "gauge":
                assert re.search(rf"(rate|increase)\({series}", query), f"{where}: {query}"


def test_labels_in_legends_and_messages_are_those_of_their_queries() -> None:
    for panel in panels():
        for target in panel["targets"]:
            names = {metric_of(series) for series, _ in _SERIES.findall(target["expr"])}
            labels = OF_PROMETHEUS.union(*(NAMES[name].labels for name in names))
            used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert used <= labels, panel["title"]
            for by in _BY.findall(target["expr"]):
                assert used <= {one.strip() for one in by.split(",")}, panel["title"]
    for rule in ALERTS.read_text("utf-8").split("- alert: ")[1:]:
        expr = re.search(r"expr: (.*)", rule)
        assert expr is not None
        names = {metric_of(series) for series, _ in _SERIES.findall(expr[1])}
        labels = OF_PROMETHEUS.union(*(NAMES[name].labels for name in names))
        used = set(re.findall(r"\$labels\.(\w+)", rule))
        assert used <= labels, rule
        for by in _BY.findall(expr[1]):
            assert used <= {one.strip() for one in by.split(",")}, rule


def test_every_rule_has_a_severity_and_says_what_to_do() -> None:
    rules = ALERTS.read_text("utf-8").split("- alert: ")[1:]
    assert len(rules) >= 15
    for rule in rules:
        assert re.search(r"labels: \{severity: (critical|warning|info)\}", rule), rule
        assert "summary: " in rule
        assert "description: " in rule


def test_panels_are_apart_and_numbered() -> None:
    found = dashboard()["panels"]
    assert [one["id"] for one in found] == list(range(1, len(found) + 1))
    taken: set[tuple[int, int]] = set()
    for one in found:
        at = one["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, one["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not here")
def test_promtool_accepts_rules_and_queries(tmp_path: Path) -> None:
    for words in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False, cwd=OPERATE)
        assert done.returncode == 0, done.stdout + done.stderr
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "queries.yml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(queries)} rules found" in done.stdout
