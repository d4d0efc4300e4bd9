from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.conformance.sinks import SinkConformance


class TestSqliteSink(SinkConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:{tmp_path}/mirror.db"

    def spoil(self, url: str, table: str, column: str, value: object) -> None:
        with closing(sqlite3.connect(url.removeprefix("sqlite:"))) as connection, connection:
            assert connection.execute(f'UPDATE "{table}" SET "{column}" = ?', (value,)).rowcount > 0
