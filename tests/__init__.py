"""Tests: a folder for each room, named for behaviour."""
