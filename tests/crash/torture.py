"""Torture: all searches for faults, for a given time; `make torture MINUTES=…`.

    campaign   seven sixteenths       databases whose process is killed, compared with a model
    histories  a quarter              tests/model and tests/crash, with EVERLOG_TORTURE_S
    soak       an eighth              mixed load; memory, descriptors and threads stay flat
    fleets     a sixteenth            upgrades in unison, beside kills of members and coordinator
    attacks    a sixteenth            floods of frames on a server, beside an honest client
    fuzz       a sixteenth            every decoder, guided by coverage, where Atheris is installed

A finding is printed with its seed; `make torture SEED=…` repeats the campaign of that seed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMED_TESTS = 16  # the number of tests that run for EVERLOG_TORTURE_S each
SOAK_FROM = 8.0  # minutes in all; a shorter soak would only measure its start


def campaign(minutes: float) -> bool:
    return _ended_well(["tests.crash.campaign", "--minutes", f"{minutes}"])


def histories(minutes: float) -> bool:
    words = ["pytest", "-q", "tests/model", "tests/crash", "--numprocesses", "2"]
    return _ended_well(words, EVERLOG_TORTURE_S=f"{minutes * 60 * 2 / TIMED_TESTS:.0f}")


def soak(minutes: float) -> bool:
    return _ended_well(["tests.crash.soak", "--minutes", f"{minutes}"])


def fleets(minutes: float) -> bool:
    words = ["tests.fleet.chaos", "--members", "12", "--programs", "3", "--rounds", "3"]
    return _ended_well([*words, "--minutes", f"{minutes}"], PYTHONPATH=str(ROOT / "examples"))


def attacks(minutes: float) -> bool:
    return _ended_well(["tests.rpc.http2.attacks", "--seconds", "1.7", "--minutes", f"{minutes}"])


def fuzz(minutes: float) -> bool:
    return _ended_well(["tests.crash.fuzz", "--minutes", f"{minutes}"])


SHARES: dict[Callable[[float], bool], float] = {
    campaign: 0.4375,
    histories: 0.25,
    soak: 0.125,
    fleets: 0.0625,
    attacks: 0.0625,
    fuzz: 0.0625,
}


def _ended_well(words: list[str], **environment: str) -> bool:
    command = [sys.executable, "-u", "-m", *words]
    return not subprocess.run(command, check=False, cwd=ROOT, env=os.environ | environment).returncode


def shares(minutes: float) -> dict[Callable[[float], bool], float]:
    """Return the minutes of each part that can run here; the others leave their time to these."""
    chosen = dict(SHARES)
    if minutes < SOAK_FROM:
        del chosen[soak]
    if importlib.util.find_spec("atheris") is None:
        del chosen[fuzz]
    whole = sum(chosen.values())
    return {what: minutes * share / whole for what, share in chosen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.torture")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int)
    given = parser.parse_args()
    if given.seed:
        raise SystemExit(not _ended_well(["tests.crash.campaign", "--seed", str(given.seed)]))
    chosen = shares(given.minutes)
    for left_out in SHARES.keys() - chosen.keys():
        why = "Atheris is not installed" if left_out is fuzz else f"it needs {SOAK_FROM:g} minutes in all"
        print(f"{left_out.__name__} is left out: {why}")  # noqa: T201
    failed = []
    for what, minutes in chosen.items():
        print(f"{what.__name__}, {minutes:.1f} minutes", flush=True)  # noqa: T201
        if not what(minutes):
            failed.append(what.__name__)
    print(f"found something: {', '.join(failed)}" if failed else "nothing was found")  # noqa: T201
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
