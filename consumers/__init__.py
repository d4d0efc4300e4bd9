"""Followers of the feed, and the sinks that they keep equal to the tables."""

from everlog.consumers.follower.follower import Followed, Follower
from everlog.consumers.follower.sink import Sink, State
from everlog.consumers.follower.verify import Difference, verify
from everlog.consumers.sqlite.sink import SqliteSink
from everlog.consumers.targets import open_sink

__all__ = ["Difference", "Followed", "Follower", "Sink", "SqliteSink", "State", "open_sink", "verify"]
