"""Followers: commits carried into a sink, each exactly once."""
