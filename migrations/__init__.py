"""Typed migrations: load, check, plan, run."""
