"""Followers: apply commits to a sink, each exactly once."""
