"""Every bench runs, tiny, with every subject, so that none of them rots."""

from pathlib import Path

import pytest

from benchmarks import report, runner
from benchmarks.__main__ import main
from benchmarks.benches import BENCHES
from benchmarks.figures import FIGURES
from benchmarks.measure import Measure, percentile_us


@pytest.mark.parametrize("name", BENCHES)
def test_a_bench_measures_each_of_its_subjects(name: str, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    assert (
        main([name, "--scale", "0.0001", "--passes", "1", "--dir", str(tmp_path), "--results", str(results)])
        == 0
    )
    found = runner.read(results)
    assert {each.subject for each in found} == set(BENCHES[name].subjects)
    assert all(each.rate > 0 and each.rss_mb > 0 for each in found)
    assert {each.bench for each in found} <= FIGURES.keys(), "a bench that the report does not know"


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
    assert "no bench named comit; there are: commit," in capsys.readouterr().err


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile_us([3000, 1000, 2000], 0.5) == 2
    assert percentile_us(range(0, 100_000, 1000), 0.99) == 99
    assert percentile_us([], 0.5) == 0
