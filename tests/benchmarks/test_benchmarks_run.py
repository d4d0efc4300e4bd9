"""Every bench runs, in a tiny size, with every subject, so that none of them stops working unnoticed."""

from pathlib import Path

import pytest

from benchmarks import dbmate, report, runner
from benchmarks.__main__ import main
from benchmarks.benches import BENCHES
from benchmarks.figures import FIGURES
from benchmarks.measure import Measure, percentile_us
from benchmarks.migrate import CHANGES

INSTALLED = {"dbmate"}  # from the network, which tests do not use
SHORT = {"commit", "migrate_transform"}  # in `make test`


def bench(name: str, tmp_path: Path, *subjects: str) -> list[Measure]:
    results = tmp_path / "results.jsonl"
    words = f"{name} --scale 0.0001 --passes 1 --dir {tmp_path} --results {results}"
    assert main([*words.split(), "--subjects", ",".join(subjects)]) == 0
    return runner.read(results)


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in BENCHES]
)
def test_a_bench_measures_each_of_its_subjects(name: str, tmp_path: Path) -> None:
    subjects = BENCHES[name].subjects.keys() - INSTALLED
    found = bench(name, tmp_path, *subjects)
    assert {each.subject for each in found} == subjects
    assert all(each.rate > 0 and each.rss_mb > 0 for each in found)
    assert {each.bench for each in found} <= FIGURES.keys(), "a bench that the report does not know"


@pytest.mark.parametrize("change", CHANGES)
def test_a_migration_runs_beside_dbmate(change: str, tmp_path: Path) -> None:
    if not dbmate.script().exists():
        pytest.skip(f"dbmate {dbmate.VERSION} was not installed by `make bench`")
    assert [each.subject for each in bench(f"migrate_{change}", tmp_path, "dbmate")] == ["dbmate"]


def test_a_subject_that_this_machine_has_not_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bench("migrate_add", tmp_path, "dbmate") == []
    assert (
        "migrate_add dbmate skipped: dbmate is started by node, which is not here" in capsys.readouterr().err
    )


def test_the_report_compares_medians_over_the_passes() -> None:
    rates = {"everlog": (90, 300, 310), "sqlite": (100, 100, 500), "raw": (1, 900, 900)}
    found = [
        Measure(bench="commit", subject=subject, n=10, seconds=1, rate=rate, number=number)
        for subject, of_passes in rates.items()
        for number, rate in enumerate(of_passes, start=1)
    ]
    line = next(line for line in report.table(found).splitlines() if line.startswith("| commit "))
    assert "| 300/s ±37% | 100/s ±200% | 900/s ±50% | 3.00 | 0.33 |" in line
    assert "rate ≥ 2.5 x sqlite met, rate ≥ 0.3 x raw met" in line
    assert "rate ≥ 4 x sqlite **missed: 3.00**" in line


def test_an_unknown_bench_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["comit"]) == 2
    assert "no bench named comit; the benches are: commit," in capsys.readouterr().err


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile_us([3000, 1000, 2000], 0.5) == 2
    assert percentile_us(range(0, 100_000, 1000), 0.99) == 99
    assert percentile_us([], 0.5) == 0
