"""Every decoder accepts any bytes: it returns, or raises an everlog error, and nothing else."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everlog.store.errors import Error
from tests.crash.decoders import decoders

EXAMPLES = 40 * (1 + int(float(os.environ.get("EVERLOG_TORTURE_S", "0"))))
NAMES = list(decoders(Path()))


@st.composite
def damaged(draw: st.DrawFn, whole: tuple[bytes, ...]) -> bytes:
    """Return valid bytes with some of them changed, left out, doubled or added."""
    raw = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(raw)))
        end = min(len(raw), at + draw(st.integers(0, 8)))
        what = draw(st.sampled_from(("flip", "cut", "double", "put")))
        if what == "flip" and at < len(raw):
            raw[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del raw[at:end]
        elif what == "double":
            raw[at:at] = raw[at:end]
        else:
            raw[at:at] = draw(st.binary(max_size=8))
    return bytes(raw)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timeout(0)
def test_any_bytes_are_read_or_refused_in_a_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    call, whole = decoders(tmp_path)[name]

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(st.one_of(damaged(whole), st.binary(max_size=64)))
    def check(raw: bytes) -> None:
        with suppress(Error):
            call(raw)

    check()


@pytest.mark.parametrize("name", NAMES)
def test_whole_bytes_are_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    call, whole = decoders(tmp_path)[name]
    for raw in whole:
        call(raw)
