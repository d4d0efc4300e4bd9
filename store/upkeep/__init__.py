"""Upkeep: check, repair, rebuild, expiry, erasure, consumers, status."""
