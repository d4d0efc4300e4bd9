"""Followers of the feed, and the sinks that they keep equal to the tables."""
