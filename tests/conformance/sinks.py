"""The suite that every sink must pass: subclass it, and implement the two methods of SinkCase.

class TestMySink(SinkConformance):
    @pytest.fixture
    def url(self, tmp_path): return f"mine:{tmp_path}/target"
    def spoil(self, url, table, column, value): …
"""

from __future__ import annotations

from tests.conformance.sink_crash import CrashConformance
from tests.conformance.sink_evolution import EvolutionConformance
from tests.conformance.sink_following import FollowingConformance
from tests.conformance.sink_values import ValuesConformance


class SinkConformance(FollowingConformance, ValuesConformance, EvolutionConformance, CrashConformance):
    """Everything that a sink guarantees (everlog.consumers.follower.sink)."""
