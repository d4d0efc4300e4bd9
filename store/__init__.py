"""The embedded database: log, projections, tables, indexes, transactions. Knows no network."""

VERSION = "0.1.0"  # as in pyproject.toml; metadata of the installation take 15 ms to read
