"""Transactions: reading, writing, validation, and group commit."""
