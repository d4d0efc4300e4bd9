"""Followers of the feed, and the sinks that they keep equal to the tables."""

from everlog.consumers.follower import Follower
from everlog.consumers.run import Followed
from everlog.consumers.sink import Sink, State
from everlog.consumers.sqlite import SqliteSink
from everlog.consumers.target import open_sink
from everlog.consumers.verify import Difference, verify

__all__ = ["Difference", "Followed", "Follower", "Sink", "SqliteSink", "State", "open_sink", "verify"]
